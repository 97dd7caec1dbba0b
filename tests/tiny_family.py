"""A family with real weights that is made in a second: random, but every policy answers differently."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mopo_eval.profiles import ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.scorecards import write_scorecards
from mopo_train.family import REFERENCE, PolicyFamily, write_family
from tests.families import SCORES, family, scorecard

CONTEXT = 512
POLICIES = [REFERENCE, "policy-00", "policy-02"]
"""The reference, a helpful policy and a careful one, with their scores from ``tests.families``."""

PROFILES = ProfileFile(
    profiles={
        "helpful": ThresholdProfile(primary="helpfulness"),  # policy-00
        "careful": ThresholdProfile(primary="helpfulness", floors={"safety": 0.85}),  # policy-02
        "impossible": ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}),
    }
)

_SPECIAL = ["<pad>", "<end>", "<system>", "<user>", "<assistant>"]
_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tiny_family(root: Path) -> PolicyFamily:
    """A measured family in ``root``: a random Llama, two random LoRA adapters, scorecards and profiles."""
    torch.manual_seed(0)
    write_tokenizer(root / "base")
    _model().save_pretrained(root / "base")
    for seed, policy in enumerate(POLICIES[1:], start=1):
        _write_adapter(root, policy, seed)
    write_scorecards(root, [scorecard(policy, SCORES[policy]) for policy in POLICIES])
    write_profiles(root / "profiles.yaml", PROFILES, "for tests")
    members = family({policy: SCORES[policy] for policy in POLICIES})
    write_family(root, members)
    return members


def greedy_answer(root: Path, policy: str, prompt: str | list[dict[str, str]], tokens: int) -> str:
    """The truth about temperature 0: what transformers' own ``generate`` adds to a text or a conversation."""
    tokenizer: Any = AutoTokenizer.from_pretrained(root / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(root / "base")
    if policy != REFERENCE:
        model = PeftModel.from_pretrained(model, str(root / "policies" / policy)).merge_and_unload()
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, do_sample=False, max_new_tokens=tokens, pad_token_id=0)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def reference_tokens(root: Path, text: str) -> list[int]:
    """Tokens of ``text`` without special ones."""
    return list(AutoTokenizer.from_pretrained(root / "base")(text, add_special_tokens=False)["input_ids"])


def token_log_probabilities(root: Path, policy: str, tokens: list[int]) -> list[float]:
    """The truth about log-probabilities: those of ``tokens[1:]``, by transformers' own forward pass of one sequence."""
    model: Any = AutoModelForCausalLM.from_pretrained(root / "base")
    if policy != REFERENCE:
        model = PeftModel.from_pretrained(model, str(root / "policies" / policy)).merge_and_unload()
    with torch.no_grad():
        table = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return [float(table[at, token]) for at, token in enumerate(tokens[1:])]


def write_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """One token per byte, five special tokens and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*_SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(_SPECIAL)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=_TEMPLATE, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def _model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's CPU attention takes
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.3,  # so large that the best token is far ahead: engines agree despite rounding
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    tokenizer_order = sorted(pre_tokenizers.ByteLevel.alphabet())
    readable = [len(_SPECIAL) + index for index, symbol in enumerate(tokenizer_order) if "!" <= symbol <= "~"]
    keep = torch.zeros(config.vocab_size, 1)
    keep[readable] = 2
    with torch.no_grad():
        model.lm_head.weight *= keep  # answers are printable ASCII
    return model


def _write_adapter(root: Path, policy: str, seed: int) -> None:
    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(root / "base")
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would make every policy the reference
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(str(root / "policies" / policy))
