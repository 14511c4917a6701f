"""Codes of checkpoints, generation, the environment and resources."""

from __future__ import annotations

from collections.abc import Mapping

from .code import Code
from .code import code as _code

CHECKPOINTS: Mapping[str, Code] = {
    "E0701": _code(
        "unknown parameter",
        "A path under `weights:` names no parameter of the model. Paths are node paths and the tensor's name.",
        wrong="tie: [{path: lm_head.weight, to: model.embed.weight}]",
        right="tie: [{path: lm_head.weight, to: model.embed_tokens.weight}]",
    ),
    "E0702": _code(
        "tied tensors differ in shape",
        "One tensor under two paths has one shape.",
        wrong="tie: [{path: model.norm.weight, to: model.embed_tokens.weight}]",
        right="tie: [{path: lm_head.weight, to: model.embed_tokens.weight}]",
    ),
    "E0703": _code(
        "missing tensors",
        "The checkpoint lacks tensors that the spec needs. Either it is of another model, or `weights: "
        "rules:` does not say "
        "yet how its names correspond.",
        wrong="llmc generate llama2_7b --weights DIR_OF_MISTRAL",
        right="llmc generate mistral_7b --weights DIR_OF_MISTRAL",
    ),
    "E0704": _code(
        "unexpected tensors",
        "The checkpoint has tensors that no parameter reads. If they are none, `weights: ignore:` says so.",
        wrong="a checkpoint with rotary_emb.inv_freq, and a spec that does not ignore it",
        right='weights: {ignore: ["model.layers.{layer}.self_attn.rotary_emb.inv_freq"]}',
    ),
    "E0705": _code(
        "tensor of another shape",
        "The tensor in the file has another shape than the spec expects; most often a param differs "
        "from the checkpoint's.",
        wrong="params: {num_kv_heads: 32}      # the checkpoint has 8",
        right="params: {num_kv_heads: 8}",
    ),
    "E0706": _code(
        "tensor of another dtype",
        "The tensor's dtype cannot be converted to what the parameter holds, e.g. integers for a weight.",
        wrong="a checkpoint quantised by a tool that llmc does not know",
        right="the same model in bfloat16",
    ),
    "E0707": _code(
        "tied tensors differ in the checkpoint",
        "The spec ties two parameters, but the checkpoint holds different numbers for them.",
        wrong="params: {tie_word_embeddings: true}      # and a checkpoint that was trained untied",
        right="params: {tie_word_embeddings: false}",
    ),
    "E0708": _code(
        "no weights",
        "The model was built without weights, so it cannot compute.",
        wrong='llmc generate llama_tiny -p "Once"',
        right='llmc generate llama_tiny --random -p "Once"',
    ),
    "E0710": _code(
        "config key that is not understood",
        "config.json has a key that neither `config:` of the spec nor llmc knows; it might change what "
        "the model computes.",
        wrong='"use_sliding_attention": true      # and no such key under config:',
        right="config: {ignore: [use_sliding_attention]}      # once it is known to change nothing",
    ),
    "E0711": _code(
        "config value without a meaning here",
        "config.json has a value that `values:` of the spec does not list.",
        wrong='"hidden_act": "quick_gelu"      # values: {gelu: gelu}',
        right="values: {gelu: gelu, quick_gelu: gelu_quick}",
    ),
    "E0712": _code(
        "config value that is not supported",
        "The architecture is written for one value of this key (`config: fixed:`), and config.json has another.",
        wrong='"hidden_act": "relu"      # fixed: {hidden_act: silu}',
        right="a spec that extends it, with kind: relu",
    ),
    "E0713": _code(
        "no spec for this model",
        "No packaged spec says that it describes this model_type or architecture.",
        wrong='"model_type": "my_model"',
        right="llmc generate my_spec.yaml --weights DIR",
    ),
    "E0714": _code(
        "spec without config",
        "The weights are written. config.json needs `config:`, which maps params to its keys.",
        wrong="a spec without config:",
        right="config: {model_type: mine, architectures: [MineForCausalLM], params: {hidden_size: hidden_size}}",
    ),
    "E0715": _code(
        "transformers lacks this model",
        "`llmc verify` compares with the reference in transformers, and the installed one has no such architecture.",
        wrong="llmc verify my_spec.yaml --against DIR      # an architecture of a newer transformers",
        right="pip install --upgrade transformers",
    ),
    "E0750": _code(
        "unsafe file in a model folder",
        "File names in an index or a config are plain relative names, and what they name is a regular file inside the "
        "folder: no `..`, no absolute path, no link that leaves the folder, no device.",
        wrong='"weight_map": {"lm_head.weight": "../other/model.safetensors"}',
        right='"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}',
    ),
    "E0751": _code(
        "missing file, folder or tensor",
        "A model folder holds config.json, tokenizer.json and either model.safetensors or "
        "model.safetensors.index.json with its shards.",
        wrong="llmc generate my_spec.yaml --weights ./lama",
        right="llmc generate my_spec.yaml --weights ./llama",
    ),
    "E0752": _code(
        "file of a model folder that cannot be read",
        "JSON files are UTF-8, bounded in size, depth and number of values, hold no key twice and no NaN.",
        wrong='{"eos_token_id": 2, "eos_token_id": 3}',
        right='{"eos_token_id": [2, 3]}',
    ),
    "E0753": _code(
        "damaged safetensors file",
        "The header was checked before any data was read: it must be complete, give each tensor a known dtype and as "
        "many bytes as its shape takes, and cover the data without gap or overlap.",
        wrong="a download that was cut off, or a Git LFS pointer",
        right="the whole file: hf download ORG/MODEL, or git lfs pull",
    ),
    "E0754": _code(
        "pickle is refused",
        "Opening a pickle file (pytorch_model.bin, *.pt, *.ckpt) can run any code that its author chose. llmc reads "
        "safetensors only.",
        wrong="DIR/pytorch_model.bin",
        right="DIR/model.safetensors",
    ),
    "E0755": _code(
        "index and shards disagree",
        "Every tensor that the index lists is in the shard it names, and every tensor of a shard is listed; a layout "
        "for saving names exactly the tensors that are saved.",
        wrong="an index beside the shards of another download",
        right="index and shards of one download",
    ),
    "E0756": _code(
        "NaN or infinity in the weights",
        "A weight that is not a finite number turns every answer into nonsense, so it is found at load.",
        wrong="a checkpoint of a training run that diverged",
        right="the last checkpoint before it diverged",
    ),
    "E0757": _code(
        "cannot write a file",
        "Files are written beside the old one and renamed, so the old file is still whole.",
        wrong="llmc build llama -o /full/disk",
        right="llmc build llama -o ./build/llama",
    ),
    "E0758": _code(
        "tensor that safetensors cannot hold",
        "Sparse tensors, tensors without data (meta) and dtypes that the format has no name for are not saved.",
        wrong="saving a model that was built without weights",
        right="llmc generate --random, or load weights first",
    ),
    "E0759": _code(
        "changed since it was loaded",
        "A model that runs from the cache is compiled only when its modules or its graph are asked for. By then its "
        "spec, its folder or llmc itself have changed, and what they describe now may be another model.",
        wrong="model = llmc.load(DIR), then an edit of the spec, then model.parameters()",
        right="load again after the edit",
    ),
}

GENERATION: Mapping[str, Code] = {
    "E0801": _code(
        "longer than the context",
        "Prompt and new tokens together fit `max_seq_len`.",
        wrong="llmc generate llama2_7b -n 5000",
        right="llmc generate llama2_7b -n 500",
    ),
    "E0802": _code(
        "rollback that is not possible",
        "A cache takes back at most the tokens that it holds, and some states (windows, scans) fewer or none.",
        wrong="cache.rollback(100)      # of 10 tokens",
        right="cache.rollback(10)",
    ),
    "E0803": _code(
        "tokens of the wrong shape",
        "Tokens are int64 [B, T] within the vocabulary; mask and cache have as many rows.",
        wrong="model(torch.tensor([1, 2, 3]))",
        right="model(torch.tensor([[1, 2, 3]]))",
    ),
    "E0804": _code(
        "wrong named inputs",
        "The model takes the inputs that `graph: in:` declares, by those names.",
        wrong="model(tokens, token_types=types)",
        right="model(tokens, token_type_ids=types)",
    ),
    "E0805": _code(
        "prompt that cannot be used",
        "A prompt is text, a list of token ids or a 1-D tensor, and not empty.",
        wrong='model.generate("")',
        right='model.generate("Once upon")',
    ),
    "E0806": _code(
        "no tokenizer",
        "The folder of the weights has no tokenizer.json, so prompts and answers are token ids.",
        wrong='model.generate("Once upon")',
        right="model.generate([1, 9038, 2501])",
    ),
    "E0807": _code(
        "unknown option of generate",
        "The option does not exist, or cannot be used together with the others.",
        wrong="model.generate(prompt, max_tokens=32)",
        right="model.generate(prompt, max_new_tokens=32)",
    ),
    "E0808": _code(
        "model that cannot generate",
        "Generation needs an output called logits, and a state that is kept between tokens or a section "
        "generation: {unmasking: …}; an encoder has neither.",
        wrong="llmc generate bert_base",
        right="llmc generate gpt2_small",
    ),
    "E0809": _code(
        "tokenizer larger than the model",
        "The tokenizer gives ids for which the model has no row.",
        wrong="the tokenizer of another model",
        right="the tokenizer that the checkpoint came with",
    ),
    "E0810": _code(
        "unmasking that cannot work",
        "Masked diffusion reads the whole text at each pass: every token sees all others, so no node keeps a state. "
        "Its mask is an id of the vocabulary.",
        wrong="generation: {unmasking: {mask_token_id: 32000}}     # in a spec with vocab_size: 32000",
        right="generation: {unmasking: {mask_token_id: 31999}}     # and mask: bidirectional on attention",
    ),
    "E0811": _code(
        "no loss of tokens",
        "`model.loss` compares the output `logits`, `[B, T, vocab_size]` of whole rows, with the tokens to predict.",
        wrong="model.loss(tokens)      # of a classifier",
        right="torch.nn.functional.cross_entropy(model(tokens), classes)",
    ),
    "E0850": _code(
        "unusable tokenizer",
        "tokenizer.json or a file beside it holds something that no real tokenizer has: ids out of range, "
        "replacements that multiply the text, or a structure that the tokenizers library refuses.",
        wrong='{"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}',
        right='{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
    ),
    "E0852": _code(
        "text or ids that the tokenizer cannot take",
        "A prompt is valid Unicode, and token ids are integers from 0.",
        wrong="tokenizer.decode([-1])",
        right="tokenizer.decode([1, 2, 3])",
    ),
    "E0853": _code(
        "the chat template fails",
        "The model's chat template has a syntax error, uses something that templates may not reach, or refuses the "
        "messages itself (two user messages in a row, no system message allowed).",
        wrong='messages: [{"role": "robot", "content": "hi"}]',
        right='messages: [{"role": "user", "content": "hi"}]',
    ),
    "E0854": _code(
        "the chat template does too much",
        "Chat templates come with checkpoints and are not trusted: they have one second and 1 MiB of output.",
        wrong="{{ 'x' * 10**9 }}",
        right="{% for message in messages %}{{ message.content }}{% endfor %}",
    ),
    "E0855": _code(
        "sampling setting out of range",
        "temperature >= 0 (0: greedy), top_k >= 0 (0: off), 0 < top_p <= 1, 0 <= min_p <= 1, repetition_penalty > 0, "
        "0 <= seed < 2^63.",
        wrong="llmc generate --top-p 90",
        right="llmc generate --top-p 0.9",
    ),
    "E0856": _code(
        "NaN logits",
        "The model's output is not a finite number, so there is no next token; the request stops instead of serving "
        "nonsense.",
        wrong="llmc generate --dtype float16   # a model that overflows float16",
        right="llmc generate --dtype float32",
    ),
    "E0857": _code(
        "stop condition out of range",
        "At least one new token; at most 64 stop strings of 1 to 1024 characters.",
        wrong='llmc generate --stop ""',
        right='llmc generate --stop "User:"',
    ),
    "E0858": _code(
        "no chat template",
        "The folder has neither chat_template.jinja nor a chat_template in tokenizer_config.json.",
        wrong="messages for a base model",
        right="a plain prompt for a base model",
    ),
    "E0859": _code(
        "packed weights are no parameters",
        "A model that was loaded with quantize= owns its matrices in packed form, which cannot be trained or saved.",
        wrong='llmc.load("DIR", quantize="int8").parameters()',
        right='llmc.load("DIR").parameters()',
    ),
    "E0860": _code(
        "rules for packing disagree",
        "Layers that share one definition run one piece of code, so a matrix has one format in all of them.",
        wrong='weights: {quantize: [{match: "*.layers.0.mlp.*", to: none}]}      # in a model whose layers are alike',
        right='weights: {quantize: [{match: "*.mlp.*", to: none}]}',
    ),
    "E0861": _code(
        "the model cannot be packed",
        "Packed weights need kernels that read them: on a CPU a C compiler and a model whose matrices C multiplies, on "
        "a GPU Triton. A folder of packed weights is written by a CPU, and serves both.",
        wrong="LLMC_NATIVE=0 llmc build llama2_7b --quantize int8 --weights DIR",
        right="llmc build llama2_7b --quantize int8 --weights DIR",
    ),
    "E0862": _code(
        "beam search that cannot be",
        "1 to 64 beams, fewer where the vocabulary is small; a finite length_penalty; early_stopping false, true or "
        "never; at most as many texts given back as there are beams.",
        wrong="llmc generate --num-beams 2 --num-return-sequences 3",
        right="llmc generate --num-beams 4 --num-return-sequences 3",
    ),
}

ENVIRONMENT: Mapping[str, Code] = {
    "E0902": _code(
        "no such device",
        "torch sees no device of this name here.",
        wrong="llmc generate llama2_7b --device cuda      # on a machine without a GPU",
        right="llmc generate llama2_7b --device cpu",
        exit_status=3,
    ),
    "E0903": _code(
        "an extra is not installed",
        "This command needs a package that llmc itself does not; the help names it.",
        wrong="llmc verify llama_tiny --against DIR      # without transformers",
        right="pip install 'llmc[test]'",
        exit_status=3,
    ),
    "E0904": _code(
        "the limit of the cache is no size",
        "LLMC_CACHE_GIB says how many GiB llmc's cache may hold before what was not used for longest is removed.",
        wrong="LLMC_CACHE_GIB=64G llmc generate llama2_7b",
        right="LLMC_CACHE_GIB=64 llmc generate llama2_7b",
        exit_status=3,
    ),
    "E0905": _code(
        "a variable of the environment has no such value",
        "LLMC_PASSES, LLMC_KERNELS and LLMC_NATIVE are 0 (off) or 1; LLMC_NUM_THREADS is a whole number of at least 1.",
        wrong="LLMC_NATIVE=off llmc generate llama2_7b",
        right="LLMC_NATIVE=0 llmc generate llama2_7b",
        exit_status=3,
    ),
    "E0950": _code(
        "not enough memory",
        "The model and its states would not fit the memory that is free now.",
        wrong="llmc generate llama2_13b --dtype float32      # 52 GB on a laptop",
        right="llmc generate llama2_13b --dtype bfloat16 --ctx 2048",
        exit_status=4,
    ),
}
