# ruff: noqa: E501
"""Chat templates: the same text as transformers for honest ones, a quick diagnostic for all others."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template  # pyright: ignore

from llmc.runtime.chat_template import ChatTemplate
from llmc.specs.diagnostics import LlmcError

MESSAGES: list[dict[str, object]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " <b>Größe & 'q'</b> \n"},
    {
        "role": "assistant",
        "content": "<think>x</think>\nOk",
        "tool_calls": [{"name": "f", "arguments": {"a": [1, None, True]}}],
    },
    {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image"}]},
]
TOOLS: list[dict[str, object]] = [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": "é"}}}]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}

HONEST = {
    "chatml": """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']|string + '<|im_end|>' + '\n'}}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
    {% if loop.index0 == 0 and system_message != false %}
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}{% set content = message['content'] %}{% endif %}
    {% if message['role'] == 'user' and content is string %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}""",
    "tools": """{%- macro show(x, depth=0) -%}{{ x | tojson(indent=2) if depth else x | tojson }}{%- endmacro -%}
{%- set ns = namespace(multi=true, last=messages|length - 1) -%}
{%- for message in messages[::-1] -%}{%- set index = (messages|length - 1) - loop.index0 -%}
{%- if ns.multi and message.role == "user" and message.content is string -%}{%- set ns.multi = false -%}{%- set ns.last = index -%}{%- endif -%}
{%- endfor -%}{{ ns.last }}{% for tool in tools %}{{ show(tool) }}{{ show(tool, depth=1) }}{% endfor %}
{%- for m in messages if m.tool_calls is defined %}{% for c in m.tool_calls -%}{{ c.name }}{% for k, v in c.arguments|items %}{{ k ~ '=' ~ v }}{% endfor %}
{%- endfor %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endfor %}""",
    "filters": """{% for m in messages -%}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }} {{ m.role|upper|trim|capitalize }}
{{- ', ' if not loop.last else '.' }}{% if m.content is iterable and m.content is not string -%}
{{ m.content|selectattr('type', 'equalto', 'text')|map(attribute='text')|join(', ') }}{% else %}{{ m.content|trim|replace('b', 'B')|indent(2) }}{% endif %}
{{ "%s:%5.1f" % (m.role, 2) }} {{ '{:>6}|{}'.format(m.role, loop.index) }}{% endfor %}{{ [3,1,2]|sort|join('-') }}{{ {'b':1,'a':2}|dictsort }}
{{- dict(a=1)|tojson }}{{ range(3)|list }}{{ 'x' * 3 }}{{ 7 // 2 ** 2 }}{{ messages|length }}{{ none is none }}{{ 3.14159|round(2) }}
{{- messages|map(attribute='role')|unique|list }}{{ messages|rejectattr('role','in',['user'])|list|length }}{{ x|default('y') }}{{ 'ab'|first }}""",
    "blocks": """{% set text %}a{{ messages|length }}
  b{% endset %}{{ text }}{% filter upper %}c{% endfilter %}{% generation %}answer{% endgeneration %}
{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}in{% endcall %}{# note #}
{% for x in [1,2,3,4] %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% else %}none{% endfor %}""",
}


@pytest.mark.parametrize("name", HONEST)
def test_equals_transformers(name: str) -> None:
    oracle = _compile_jinja_template(HONEST[name])
    given = {"messages": MESSAGES, "tools": TOOLS, "documents": None, "add_generation_prompt": True, **VARIABLES}
    actual = ChatTemplate(HONEST[name]).render(MESSAGES, tools=TOOLS, variables=VARIABLES)
    assert actual == oracle.render(**given)


def test_strftime() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", clock=lambda: datetime(2026, 1, 2))
    assert template.render([]) == "02 Jan 2026"


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ messages|map(attribute='__class__.__mro__')|join }}{{ 1/0 }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ range.__globals__.x }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{{ lipsum.__globals__ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format('').x() }}",
    "{{ 'x'.format_map({}) }}",
    "{{ '%s'.__mod__(1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages[0].setdefault('a', 1) }}",
    "{{ messages.__class__() }}",
    "{{ namespace(__class__=1) }}",
    "{{ namespace(**{'_x': 1}) }}",
    "{% set ns = namespace() %}{{ ns.__init__.__globals__.x }}",
    "{{ loop.__class__.x }}",
    "{% for m in messages %}{{ loop._iterator.x }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__.x }}{{ m._func() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ ''.encode() }}",
    "{{ ''.translate({}) }}",
    "{{ strftime_now('%99999999Y') }}",
    "{{ strftime_now('%Y' * 100) }}",
    "{{ (1).to_bytes(9999999999, 'big') }}",
    "{{ messages|pprint }}",
    "{{ 'x'|urlize }}",
    "{{ environment.x }}",
    "{{ context.x }}",
    "{% do messages.append(1) %}",
    "{% debug %}",
]

GREEDY = [
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{{ [0] * 10**9 }}",
    "{{ ('x' * 10**6) * 10**6 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 2 ** (2 ** 40) }}",
    "{% set ns = namespace(a=9) %}{% for i in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
    "{% for i in range(10**12) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{% for i in range(60) %}{% set ns.a = {'a': ns.a, 'b': ns.a} %}{% endfor %}{{ ns.a|tojson }}",
    "{% set ns = namespace(a=1, b=1) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}{% endfor %}{{ ns.a == ns.b }}",
    "{% set ns = namespace(a=1) %}{% for i in range(60) %}{% set ns.a = dict(a=ns.a, b=ns.a) %}{% endfor %}",
    "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set t %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = t %}{% endfor %}",
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = m(ns.a) %}{% endfor %}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ ('%(a)s' * 99999) % {'a': 'x' * 999999} }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ ('{0}' * 99999).format('x' * 999999) }}",
    "{{ 'x'|center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ 'x'|indent(10**9, true) }}",
    "{{ ('\n' * 99999)|indent(4000) }}",
    "{{ 'x'.join(['y' * 999] * 99999) }}",
    "{{ (['y' * 999999, 'z'] * 1)|join('x' * 2000000) }}",
    "{{ range(99999)|join('x' * 1000) }}",
    "{{ ('x' * 99999).replace('', 'y' * 9999) }}",
    "{{ ('x' * 99999)|replace('x', 'y' * 9999) }}",
    "{{ 1|round(10**9) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ messages|tojson(indent=10**9) }}",
    "{{ messages|tojson(separators=('x' * 999999, ':')) }}",
    "{{ ([[1] * 999] * 999)|sum(start=[]) }}",
    "{% set ns = namespace(s=0) %}{% for i in range(99999) %}{% set ns.s = range(99999)|list|length %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = messages|tojson|length %}{% set y = ('x' * 999999).count('xy') %}{% endfor %}",
    "{{ ('a' * 999999).rfind('b' + 'a' * 499999) }}",
    "{{ " + "(" * 50_000 + " }}",
    "{{ " + "-" * 100_000 + "1 }}",
    "{{ " + "[" * 300 + "]" * 300 + " }}",
    "{% if 1 %}" * 5000,
    "x" * 300_000,
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escape_is_refused(source: str) -> None:
    with pytest.raises(LlmcError, match=r"E085[34]") as caught:
        ChatTemplate(source).render(MESSAGES, variables=VARIABLES)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("source", GREEDY, ids=lambda source: ascii(source[:60]))
def test_greed_is_cut(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(LlmcError, match=r"E085[34]"):
        ChatTemplate(source).render(MESSAGES)
    assert time.monotonic() - began < 10


def test_harmless_undefined_prints_nothing() -> None:
    assert ChatTemplate("{{ ''.__class__ }}|{{ nothing }}").render([]) == "|"


def test_line_of_the_mistake() -> None:
    for source, message in (
        ("a\n\n{{ raise_exception('no ' ~ 'tools') }}", "refuses these messages: no tools"),
        ("a\n\n{% if %}", "Expected an expression"),
        ("a\n\n{{ nothing.x }}", "'nothing' is undefined"),
        ("a\n\n{{ 'x' * 10**9 }}", "too large"),
    ):
        with pytest.raises(LlmcError, match=message) as caught:
            ChatTemplate(source, name="DIR/chat_template.jinja").render([])
        assert str(caught.value.diagnostics[0].span) == "DIR/chat_template.jinja:3:1"


def test_messages_of_other_types() -> None:
    with pytest.raises(LlmcError, match="not of object"):
        ChatTemplate("{{ messages }}").render([{"role": "user", "content": object()}])
    deep: dict[str, object] = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(LlmcError, match="nested deeper"):
        ChatTemplate("x").render([deep])


def test_rendering_again_and_again() -> None:
    template = ChatTemplate("{{ messages[0].content * 1000 }}")
    for _ in range(300):
        assert len(template.render([{"role": "user", "content": "x" * 1000}])) == 1_000_000
