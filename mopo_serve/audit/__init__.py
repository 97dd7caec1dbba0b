"""The audit store: what the gateway decided, what people thought of the answers, and what changed, append-only.

Three tables (``schema``), each a hash chain (``chain``) in SQLite or PostgreSQL (``store``). The gateway hands its
decisions to a process of its own (``writer``, ``worker``) which appends them in batches, and to a local file while
the database cannot be reached (``spill``). ``verify`` and ``export`` are behind ``mopo-serve audit``; ``frames`` is
what dashboards read.

How durable a decision is, and when:

==============================  =======================================================================================
what dies                       what is lost
==============================  =======================================================================================
the gateway (kill -9)           nothing that was handed over: the worker reads its pipe to the end and commits.
                                A decision is handed over in the turn of the event loop in which it was recorded.
the worker (kill -9)            nothing: the gateway keeps what was not acknowledged, and a new worker gets it again;
                                numbers per writer make sure that each is stored once.
both, or the machine's process  what was not acknowledged yet: normally the last few milliseconds. (``written`` waits
table                           for the acknowledgement; feedback is answered after its commit.)
the power                       nothing that was acknowledged: commits are synchronous (SQLite ``synchronous=FULL``,
                                PostgreSQL's default), and the spill file is fsynced.
the database (full, locked,     nothing: after ``PATIENCE_SECONDS`` batches go to the spill file and requests go on;
gone)                           when the database is back they are appended in order. When the spill file has reached
                                its limit or its disk is full, the gateway's queue fills up, ``accepting`` turns false
                                and new requests are answered 503, since an answer without a trace is worse than none.
==============================  =======================================================================================
"""
