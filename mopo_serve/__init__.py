"""Serve a family on vLLM behind one OpenAI-compatible endpoint where a threshold profile picks the policy."""
