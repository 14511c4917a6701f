"""Codes of the language: keys, names, the graph and its shapes."""

from __future__ import annotations

from collections.abc import Mapping

from .code import Code
from .code import code as _code

KEYS: Mapping[str, Code] = {
    "E0201": _code(
        "unknown key",
        "The key means nothing at this place. No key is silently ignored; notes go under keys that begin with `x-`.",
        wrong="q_proj: {op: linear, in: x, feature: 64}",
        right="q_proj: {op: linear, in: x, features: 64}",
    ),
    "E0202": _code(
        "missing key",
        "A key without which this part has no meaning. What a node needs is what its op declares: `llmc schema`.",
        wrong="q_proj: {op: linear, in: x}",
        right="q_proj: {op: linear, in: x, features: 64}",
    ),
    "E0203": _code(
        "wrong kind of value",
        "The key takes a value of another kind: a number, text, true or false, a list or a map.",
        wrong="q_proj: {op: linear, in: x, features: [64]}",
        right="q_proj: {op: linear, in: x, features: 64}",
    ),
    "E0204": _code(
        "not a choice",
        "The field takes one of a few words; the help lists them.",
        wrong="act_fn: {op: activation, in: x, kind: swish}",
        right="act_fn: {op: activation, in: x, kind: silu}",
    ),
    "E0205": _code(
        "out of bounds",
        "The number is too small or too large, the text too short, or the list empty.",
        wrong="layers: {block: layer, repeat: -1, in: x}",
        right="layers: {block: layer, repeat: num_layers, in: x}",
    ),
    "E0206": _code(
        "another version of the language",
        "`llmc:` is the version of the language that the file is written in.",
        wrong="llmc: 2",
        right="llmc: 1",
    ),
    "E0207": _code(
        "expression of the wrong kind",
        "The expression has a value, but of another kind than this place takes. `/` gives a fraction, "
        "`//` a whole number.",
        wrong="q_proj: {op: linear, in: x, features: hidden_size / 2}",
        right="q_proj: {op: linear, in: x, features: hidden_size // 2}",
    ),
    "E0208": _code(
        "both op and block",
        "A node is one op, or one use of a block.",
        wrong="mlp: {op: linear, block: mlp, in: x}",
        right="mlp: {block: mlp, in: x}",
    ),
}

NAMES: Mapping[str, Code] = {
    "E0301": _code(
        "name that is not allowed",
        "Nodes, blocks, ports and params are named by letters, digits and `_`, at most 64 characters, "
        "and are no Python "
        "keyword. A node may have dots, since its path is the name of its tensors; its parts are no "
        "attributes of a module.",
        wrong="my-mlp: {block: mlp, in: x}",
        right="my_mlp: {block: mlp, in: x}",
    ),
    "E0302": _code(
        "name that is taken",
        "The name already means something here: an input, a tensor that every block can read, or a name "
        "that a repeat gives.",
        wrong="params: {layer: 3}",
        right="params: {first_layer: 3}",
    ),
    "E0303": _code(
        "unknown reference",
        "A block sees its own inputs and nodes. It sees neither into the blocks that it uses nor out "
        "into those around it.",
        wrong="in: self_attn.o_proj            # inside the block used at self_attn",
        right="in: self_attn                   # what that block gives at out:",
    ),
    "E0304": _code(
        "unknown port",
        "`node:port` reads one output of a node that has several; an input map names the ports of the op or block.",
        wrong="halves: {op: split, in: x, sizes: {gate: 8, up: 8}}\nout: halves",
        right='halves: {op: split, in: x, sizes: {gate: 8, up: 8}}\nout: "halves:gate"',
    ),
    "E0305": _code(
        "unknown block",
        "`block:` names an entry of `blocks:`, or gives its name as an expression.",
        wrong="mlp: {block: mpl, in: x}",
        right="mlp: {block: mlp, in: x}",
    ),
    "E0306": _code(
        "unknown op",
        "`llmc schema` lists the ops. What is fused from several is made by the compiler, not written.",
        wrong="norm: {op: rmsnorm, in: x, eps: 1e-5}",
        right="norm: {op: rms_norm, in: x, eps: 1e-5}",
    ),
    "E0307": _code(
        "too many inputs",
        "The op or the block takes fewer inputs, or this one is given twice.",
        wrong="o_proj: {op: linear, in: [x, y], features: 64}",
        right="o_proj: {op: linear, in: x, features: 64}",
    ),
    "E0308": _code(
        "missing input",
        "An input that the op or the block needs is not given.",
        wrong="o_proj: {op: linear, features: 64}",
        right="o_proj: {op: linear, in: attend, features: 64}",
    ),
}

GRAPH: Mapping[str, Code] = {
    "E0501": _code(
        "circle of nodes",
        "Nodes read each other in a circle, so none can be first. What is kept between tokens is state, "
        "which ops declare.",
        wrong="a: {op: add, in: [x, b]}\nb: {op: scale, in: a, factor: 2}",
        right="a: {op: add, in: [x, x]}\nb: {op: scale, in: a, factor: 2}",
    ),
    "E0502": _code(
        "block inside itself",
        "A block uses itself, at once or through others, and would never end.",
        wrong="layer: {in: x, nodes: {next: {block: layer, in: x}}, out: next}",
        right="layers: {block: layer, repeat: num_layers, in: x}",
    ),
    "E0503": _code(
        "node that nothing reads",
        "The node would be computed for nothing; most often another node was meant to read it.",
        wrong="nodes:\n  gate: {op: linear, in: x, features: 64}\n  up: {op: linear, in: x, features: 64}\nout: up",
        right="nodes:\n  gate: {op: linear, in: x, features: 64}\n  up: {op: linear, in: x, features: 64}\n"
        "  gated: {op: mul, in: [gate, up]}\nout: gated",
    ),
    "E0504": _code(
        "input that nothing reads",
        "The block or the graph declares an input that none of its nodes reads.",
        wrong="in: [x, residual]\nnodes: {norm: {op: rms_norm, in: x, eps: 1e-5}}",
        right="in: x\nnodes: {norm: {op: rms_norm, in: x, eps: 1e-5}}",
    ),
    "E0505": _code(
        "blocks of one repeat differ in their ports",
        "A repeat may pick another block in each layer, but all of them take and give ports of the same names.",
        wrong="dense: {in: x, …, out: y}\nmoe: {in: [x, router], …, out: y}",
        right="dense: {in: x, …, out: y}\nmoe: {in: x, …, out: y}",
    ),
    "E0506": _code(
        "one value per layer, read as a single one",
        "An output of a repeated block that is not carried is collected: it is a list with one value for each layer.",
        wrong='final: {op: rms_norm, in: "layers:attention", eps: 1e-5}',
        right='all: {op: concat, in: "layers:attention"}\nfinal: {op: rms_norm, in: all, eps: 1e-5}',
    ),
    "E0507": _code(
        "too many nodes",
        "A model has at most 20 000 nodes where each layer is written out; layers that are alike count once.",
        wrong="layers: {block: layer, repeat: 10000, in: x}      # with a field that depends on the layer",
        right="layers: {block: layer, repeat: 100, in: x}",
    ),
    "E0508": _code(
        "override that reaches nothing",
        "An entry of `set:` names a field of a node inside the repeated block, and its `at:` holds in "
        "at least one layer; "
        "a path of `own:` names a node inside the share.",
        wrong="overrides: [{at: layer == 3, set: {attend.window: null}}]",
        right="overrides: [{at: layer == 3, set: {self_attn.attend.window: null}}]",
    ),
    "E0509": _code(
        "removed node is read",
        "`when:` is false here, so the node is not there; its readers take what `else:` names.",
        wrong="act: {op: activation, in: up, kind: gelu, when: has_activation}",
        right="act: {op: activation, in: up, kind: gelu, when: has_activation, else: up}",
    ),
    "E0510": _code(
        "cache that cannot be shared",
        "`cache:` names an attention node that comes before this one and has keys and values of its own.",
        wrong="attend: {op: attention, q: q, cache: model.layers.9.attend, head_dim: 64}     # in layer 3",
        right="attend: {op: attention, q: q, cache: model.layers.1.attend, head_dim: 64}     # in layer 3",
    ),
    "E0511": _code(
        "block that nothing uses",
        "The block is never named by a `block:`; most often its name is misspelt in one of the two places.",
        wrong="blocks:\n  mlp: …\n  adapter: …      # and no node says block: adapter",
        right="adapter: {block: adapter, in: x}",
    ),
}

SHAPES: Mapping[str, Code] = {
    "E0601": _code(
        "shapes that do not fit",
        "The op cannot take values of these shapes; the notes say where they come from.",
        wrong="o_proj: {op: linear, in: attend, features: 48}\nsum: {op: add, in: [x, o_proj]}      # x is 32 wide",
        right="o_proj: {op: linear, in: attend, features: 32}\nsum: {op: add, in: [x, o_proj]}",
    ),
    "E0602": _code(
        "layer changes what it carries",
        "What a repeated block carries to the next layer has to leave it in the shape and dtype that it came in.",
        wrong="layer: {in: x, nodes: {y: {op: linear, in: x, features: 2 * hidden_size}}, out: y}",
        right="layer: {in: x, nodes: {y: {op: linear, in: x, features: hidden_size}}, out: y}",
    ),
    "E0603": _code(
        "op that cannot run yet",
        "The spec is legal and can be checked, shown and planned, but this version has no "
        "implementation of an op in it.",
        wrong="llmc generate my_spec.yaml      # with an op that has no reference",
        right="llmc check my_spec.yaml",
    ),
    "E0604": _code(
        "parameter with two owners",
        "The path of a node is the name of its tensors, so two nodes cannot have one path, and the uses of a share own "
        "tensors of one shape.",
        wrong="layers: {block: layer, repeat: 2, in: x}\nlayers.0.mlp: {op: linear, in: layers, features: 64}",
        right="layers: {block: layer, repeat: 2, in: x}\nmlp: {op: linear, in: layers, features: 64}",
    ),
    "E0605": _code(
        "fused program differs",
        "`--verify` compares the numbers of the program before and after each pass, and those of every node that was "
        "compiled with its reference in float64; this is a bug in llmc.",
        wrong="llmc build my_spec.yaml --verify",
        right="LLMC_PASSES=0 llmc build my_spec.yaml",
    ),
    "E0606": _code(
        "kernel required",
        "With `--strict-kernels`, attention and norms, and on a GPU scans, experts and ternary layers as well, may not "
        "fall back to their reference where a kernel for the op exists; on a GPU neither in the modules that one "
        "trains, which need kernels with gradients, unless `--quantize` leaves none to train. "
        "The notes say why each kernel refused.",
        wrong="llmc build mine.yaml --strict-kernels      # head_dim 60: no kernel serves it",
        right="llmc build mine.yaml",
    ),
    "E0607": _code(
        "kernel that was asked for",
        "`x-kernels` names an op or the path of a node, and the kernel that it is to run on: `reference`, or one that "
        "`llmc explain SPEC` lists for it and that serves at least one phase. The nodes then stay with torch on a CPU.",
        wrong="x-kernels: {attend_cached: flash}",
        right="x-kernels: {attend_cached: sdpa}",
    ),
}
