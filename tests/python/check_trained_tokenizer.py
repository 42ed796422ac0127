#!/usr/bin/env python3
"""Loads a tokenizer of `genir tokenizer train` with AutoTokenizer, and prints the token ids of the texts on standard input.

    python check_trained_tokenizer.py DIRECTORY < TEXTS.json
"""

import json
import sys

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
if special != [0, 1, 2] or tokenizer.convert_tokens_to_ids("<extra_id_0>") != len(tokenizer) - 1:
    sys.exit(f"special tokens {special}, {len(tokenizer)} tokens")
print(json.dumps([tokenizer(text)["input_ids"] for text in json.load(sys.stdin)]))
