"""Codes of YAML text, files and expressions."""

from __future__ import annotations

from collections.abc import Mapping

from .code import Code
from .code import code as _code

TEXT: Mapping[str, Code] = {
    "E0101": _code(
        "file not found",
        "The file that was named does not exist.",
        wrong="llmc check specs/lama.yaml",
        right="llmc check specs/llama.yaml",
    ),
    "E0102": _code(
        "not a regular file",
        "A spec is a plain file. Folders, FIFOs, sockets and devices are never read.",
        wrong="llmc check specs/",
        right="llmc check specs/llama.yaml",
    ),
    "E0103": _code(
        "file cannot be read",
        "The system refused to open or to read the file; the message says why.",
        wrong="llmc check secret.yaml      # mode 000",
        right="chmod u+r secret.yaml",
    ),
    "E0104": _code(
        "file too large",
        "A spec has at most 1 MiB. Repetition is said with `repeat:`, not written out.",
        wrong="layer0: {block: layer}\nlayer1: {block: layer}      # and so on, for megabytes",
        right="layers: {block: layer, repeat: num_layers}",
    ),
    "E0105": _code(
        "not UTF-8",
        "Specs are UTF-8 text. The position is that of the first byte which is not.",
        wrong="name: caf\\xe9               # Latin-1",
        right="name: café                  # saved as UTF-8",
    ),
    "E0106": _code(
        "forbidden character",
        "Control characters, other line ends than \\n and \\r\\n, and lone surrogates cannot stand in a spec. "
        "Where a value needs one, it is written as an escape inside double quotes.",
        wrong="stop: <an ESC byte>",
        right='stop: "\\x1b"',
    ),
    "E0107": _code(
        "YAML syntax",
        "The text is not valid YAML 1.2 at this place.",
        wrong="q_proj: {op: linear, in: x",
        right="q_proj: {op: linear, in: x}",
    ),
    "E0108": _code(
        "tab in the indentation",
        "YAML is indented with spaces; a tab has no width.",
        wrong="params:\n<tab>hidden_size: 64",
        right="params:\n  hidden_size: 64",
    ),
    "E0109": _code(
        "several documents",
        "One file holds one spec; `---` may only start it.",
        wrong="name: a\n---\nname: b",
        right="name: a                     # and b in a file of its own",
    ),
    "E0110": _code(
        "empty file",
        "The file holds no YAML node at all, or only comments.",
        wrong="# to be written",
        right="llmc: 1\nname: mine",
    ),
    "E0111": _code(
        "not a map",
        "The top of a spec is a map of keys to values.",
        wrong="- llmc\n- 1",
        right="llmc: 1",
    ),
    "E0112": _code(
        "too many nodes",
        "A spec has at most 100 000 scalars, lists and maps. An alias counts at its expanded size, so that a "
        "few lines cannot become gigabytes.",
        wrong="a: &a [x, x, x]\nb: &b [*a, *a, *a]          # and so on",
        right="layers: {block: layer, repeat: num_layers}",
    ),
    "E0113": _code(
        "nested too deep",
        "Maps and lists nest at most 64 levels deep, aliases expanded.",
        wrong="a: [[[[[[[[ … ]]]]]]]]",
        right="a: [1, 2]",
    ),
    "E0114": _code(
        "alias inside its own node",
        "An alias that stands inside the node it names would make the spec endless.",
        wrong="a: &a [*a]",
        right="a: [1]",
    ),
    "E0115": _code(
        "unknown alias",
        "An alias names an anchor that was written before it.",
        wrong="a: *rope",
        right="rope: &rope {theta: 10000.0}\na: *rope",
    ),
    "E0116": _code(
        "explicit tag",
        "Tags choose a type or construct an object; the type of a scalar in a spec is always that of YAML 1.2.",
        wrong="theta: !!float 10000",
        right="theta: 10000.0",
    ),
    "E0117": _code(
        "merge key",
        "`<<` is not part of YAML 1.2. Whole specs are inherited with `extends:`, parts are named as blocks.",
        wrong="<<: *base\nhidden_size: 64",
        right="extends: base\nparams: {hidden_size: 64}",
    ),
    "E0118": _code(
        "duplicate key",
        "A key stands twice in one map; the later value would silently win.",
        wrong="hidden_size: 64\nhidden_size: 128",
        right="hidden_size: 128",
    ),
    "E0119": _code(
        "key is not a string",
        "Keys are names. A bare number, `null`, `true`, a list or a map is not one.",
        wrong="1: llama",
        right='"1": llama',
    ),
    "E0120": _code(
        "integer too long",
        "Integers have at most 18 digits, so that every one fits 64 bits.",
        wrong="vocab_size: 32000000000000000000",
        right="vocab_size: 32000",
    ),
    "E0121": _code(
        "float out of range",
        "The number exceeds the largest float (about 1.8e308).",
        wrong="scale: 1e999",
        right="scale: .inf",
    ),
    "E0130": _code(
        "extends is not a name",
        "`extends:` takes one bare name or one relative path.",
        wrong="extends: [llama, mistral]",
        right="extends: llama",
    ),
    "E0131": _code(
        "extends leaves its folder",
        "What a spec extends lies in the folder of the spec or below it, also after links are followed; a "
        "path is made of letters, digits and `_ . + -`.",
        wrong="extends: ../../secret.yaml",
        right="extends: parts/base.yaml",
    ),
    "E0132": _code(
        "extended file not found",
        "Neither a file nor a packaged spec of that name exists.",
        wrong="extends: parts/llama        # a path needs its ending",
        right="extends: parts/llama.yaml",
    ),
    "E0133": _code(
        "extends itself",
        "The chain of `extends:` comes back to a spec that it already went through.",
        wrong="extends: b                  # in a.yaml, where b.yaml extends a",
        right="extends: llama",
    ),
    "E0134": _code(
        "extends chain too long",
        "At most 8 specs extend one another.",
        wrong="extends: step_9             # which extends step_8, and so on",
        right="extends: llama",
    ),
    "E0135": _code(
        "null removes nothing",
        "In a spec that extends another, `null` removes a key, which the parent must have. (Inside `params` "
        "null is a value.)",
        wrong="generation: {tempreature: null}",
        right="generation: {temperature: null}",
    ),
    "E0140": _code(
        "unknown packaged spec",
        "A target without `/` and without `.yaml` is the name of a spec that ships with llmc; `llmc list` prints them.",
        wrong="llmc build lama2_7b",
        right="llmc build llama2_7b",
    ),
    "E0141": _code(
        "target names no spec",
        "The target is empty or holds a NUL character.",
        wrong='llmc check ""',
        right="llmc check llama2_7b",
    ),
}

EXPRESSIONS: Mapping[str, Code] = {
    "E0401": _code(
        "unexpected character",
        "Expressions are made of numbers, 'text', names, operators, brackets and commas.",
        wrong="head_dim: ${hidden_size & 3}",
        right="head_dim: ${hidden_size % 4}",
    ),
    "E0402": _code(
        "expression syntax",
        "A value, an operator or a bracket is missing at this place.",
        wrong="features: num_heads *",
        right="features: num_heads * head_dim",
    ),
    "E0403": _code(
        "unclosed ${",
        "Every `${` is closed by `}`. The two characters themselves are written `$${`.",
        wrong="head_dim: ${hidden_size // 4",
        right="head_dim: ${hidden_size // 4}",
    ),
    "E0404": _code(
        "empty expression",
        "There is nothing between `${` and `}`.",
        wrong="head_dim: ${}",
        right="head_dim: ${hidden_size // num_heads}",
    ),
    "E0405": _code(
        "expression too long",
        "An expression has at most 1000 characters. A param can name a part of it.",
        wrong="kinds: ${[0, 1, 0, 1, …]}",
        right="kinds: ${[0, 1] * 16}",
    ),
    "E0406": _code(
        "expression nested too deep",
        "Brackets, signs and conditionals nest at most 32 levels deep.",
        wrong="x: ${((((((((…1…))))))))}",
        right="x: ${1}",
    ),
    "E0407": _code(
        "attribute access",
        "Expressions read names, never attributes or methods.",
        wrong="x: ${layer_types.count}",
        right="x: ${len(layer_types)}",
    ),
    "E0408": _code(
        "power operator",
        "There is no `**`: a short power could be a huge number.",
        wrong="x: ${head_dim ** 0.5}",
        right="x: ${sqrt(head_dim)}",
    ),
    "E0409": _code(
        "chained comparison",
        "A comparison has two sides; two of them are joined with `and`.",
        wrong="dense: ${0 < layer < 4}",
        right="dense: ${0 < layer and layer < 4}",
    ),
    "E0410": _code(
        "unknown function",
        "The functions are len min max abs sqrt exp log floor ceil round round_up ceil_div range sum take where.",
        wrong="x: ${pow(2, 3)}",
        right="x: ${2 * 2 * 2}",
    ),
    "E0411": _code(
        "wrong number of arguments",
        "The function takes another number of arguments.",
        wrong="x: ${round_up(hidden_size)}",
        right="x: ${round_up(hidden_size, 64)}",
    ),
    "E0412": _code(
        "unknown name",
        "An expression reads params, and inside a repeat also `layer`, `num_layers` and `use`.",
        wrong="features: hiden_size",
        right="features: hidden_size",
    ),
    "E0413": _code(
        "operand of the wrong type",
        "The operator or the function cannot take a value of this type. Booleans are not numbers and text is "
        "not repeated.",
        wrong="x: ${'4' * 2}",
        right="x: ${4 * 2}",
    ),
    "E0414": _code(
        "division by zero",
        "The divisor is zero.",
        wrong="head_dim: ${hidden_size // 0}",
        right="head_dim: ${hidden_size // num_heads}",
    ),
    "E0415": _code(
        "index out of range",
        "A list of n items has the indices 0 to n - 1, or -n to -1 from its end.",
        wrong="block: ${['dense', 'moe'][2]}",
        right="block: ${['dense', 'moe'][1]}",
    ),
    "E0416": _code(
        "number out of bounds",
        "Integers stay below 2**63 and floats stay finite.",
        wrong="x: ${exp(1000)}",
        right="x: ${exp(10)}",
    ),
    "E0417": _code(
        "list or text too long",
        "A list has at most 10 000 items and nests at most 32 deep, a text has at most 4096 characters.",
        wrong="x: ${[0] * 1000000}",
        right="x: ${[0] * num_layers}",
    ),
    "E0418": _code(
        "argument outside the function's domain",
        "The function has no value there: sqrt of a negative number, log of zero, min of an empty list, a "
        "negative divisor.",
        wrong="x: ${log(0)}",
        right="x: ${log(vocab_size)}",
    ),
    "E0419": _code(
        "Python constant",
        "Constants are spelled as in YAML: true, false, null.",
        wrong="tied: ${True}",
        right="tied: ${true}",
    ),
    "E0420": _code(
        "bad text literal",
        "Text stands between two equal quotes; the escapes are \\\\ \\' \\\" \\n \\t.",
        wrong="block: ${'dense}",
        right="block: ${'dense'}",
    ),
    "E0421": _code(
        "value cannot stand inside a text",
        "Text, numbers and booleans can be parts of a longer text; null and lists cannot.",
        wrong="block: layer_${null}",
        right="block: layer_${layer}",
    ),
    "E0431": _code(
        "params need one another",
        "The value of a param depends on itself.",
        wrong='params: {a: "${b}", b: "${a}"}',
        right='params: {a: 1, b: "${a}"}',
    ),
    "E0432": _code(
        "param that nothing reads",
        "No key is silently ignored: a param that no expression reads is a mistake, or should go.",
        wrong="params: {rope_base: 10000.0}   # the node says theta: rope_theta",
        right="params: {rope_theta: 10000.0}",
    ),
    "E0433": _code(
        "unknown param",
        "A param that is set from outside must be one of the spec.",
        wrong="llmc build llama --set layers=2",
        right="llmc build llama --set num_layers=2",
    ),
    "E0434": _code(
        "param of the wrong type",
        "A param that is set from outside keeps the type that the spec gives it.",
        wrong="llmc build llama --set num_layers=two",
        right="llmc build llama --set num_layers=2",
    ),
}
