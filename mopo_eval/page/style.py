"""The style sheet of the report: light, dark and printed. Colours are Okabe and Ito's (2008)."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #52606d; --rule: #d9dee4; --panel: #f5f7fa;
  --paper: #ffffff; --blue: #0072b2; --rust: #a84300; --green: #00694f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --muted: #a9b4c0; --rule: #3a444f; --panel: #20272e;
  --paper: #161b20; --blue: #56b4e9; --rust: #ff9f5a; --green: #4fd1ac; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 "Source Sans 3", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 0.2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.4rem 0; max-width: 78ch; }
.facts, .note { color: var(--muted); font-size: 0.92rem; max-width: 100ch; }
.summary { border-left: 4px solid var(--blue); background: var(--panel); border-radius: 0 6px 6px 0;
  padding: 0.8rem 1.2rem 0.8rem 2.2rem; margin: 1rem 0; }
.summary li { margin: 0.3rem 0; max-width: 90ch; overflow-wrap: anywhere; }
.warnings { border-left: 4px solid var(--rust); background: var(--panel); border-radius: 0 6px 6px 0;
  padding: 0.6rem 1.2rem 0.6rem 2.2rem; margin: 1rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; max-width: 620px; }
svg text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .axis { font-size: 13px; font-weight: 600; fill: var(--ink); }
svg .name { fill: var(--ink); font-size: 11.5px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .front line { stroke: var(--blue); stroke-width: 1.6; opacity: 0.75; }
svg .front circle, svg .front path { fill: var(--blue); stroke: var(--paper); stroke-width: 1.2; }
svg .dominated line { stroke: var(--muted); stroke-width: 1.4; opacity: 0.55; }
svg .dominated circle, svg .dominated path { fill: var(--paper); stroke: var(--muted); stroke-width: 1.8; }
/* A shade at the right edge, which the end of the table brings its cover for: seen while there is more to scroll to. */
.scroll { overflow-x: auto; background: linear-gradient(to left, var(--paper) 24px, transparent 48px) local,
  linear-gradient(to left, var(--rule), transparent 22px); }
table { border-collapse: collapse; font-size: 0.93rem; font-variant-numeric: tabular-nums;
  min-width: min(100%, 34rem); }
.caption { color: var(--muted); font-size: 0.92rem; font-weight: 600; margin: 1.2rem 0 0.2rem; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 1.1rem 0.4rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-size: 0.87rem; vertical-align: bottom; border-bottom: 1.5px solid var(--muted); }
tbody th { font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
td small, th small { display: block; white-space: pre; color: var(--muted); font-weight: 400; }
.good { color: var(--green); font-weight: 600; }
.bad { color: var(--rust); font-weight: 600; }
.example { border: 1px solid var(--rule); border-radius: 8px; padding: 0.8rem 1rem; margin: 0.8rem 0;
  break-inside: avoid; }
.example header { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-weight: 600; }
.example header span + span { font-weight: 400; color: var(--muted); }
.pair { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 0 1rem; }
.quote { margin-top: 0.6rem; }
.label { color: var(--muted); font-size: 0.82rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; contain: paint; background: var(--panel);
  border-radius: 6px; padding: 0.5rem 0.8rem; max-height: 18rem; overflow: auto; }
footer { margin-top: 3rem; color: var(--muted); font-size: 0.88rem; }
@media (max-width: 600px) { main { padding: 1.2rem 1rem 3rem; } h1 { font-size: 1.5rem; }
  .pair { grid-template-columns: minmax(0, 1fr); } }
@media print { :root { --ink: #000; --muted: #444; --rule: #bbb; --panel: #fff; --paper: #fff; --blue: #0072b2;
  --rust: #a84300; --green: #00694f; } main { max-width: none; padding: 0; } .said { max-height: none; }
  .scroll { overflow: visible; } table { font-size: 0.75rem; } h2 { break-after: avoid; }
  figure { break-inside: avoid; } }
"""
