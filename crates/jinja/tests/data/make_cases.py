"""Writes jinja2_cases.json: templates, what they are given, and what Jinja2 makes of them in the environment that
transformers sets up (src/transformers/utils/chat_template_utils.py, _compile_jinja_template).

Run: python make_cases.py   (needs transformers and jinja2; the versions are written into the file)
"""

import copy
import json
import os
import warnings

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "s": "Hello, World", "e": "", "sp": "  a b  c \n", "u": "Grüße ßΣ", "n": 7, "neg": -7, "f": 2.5, "big": 2**63 - 1,
    "t": True, "no": False, "none_value": None, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "mixed": [1, "a", None, True, 2.0, [1]],
    "d": {"b": 1, "a": [1, 2], "items": "own", "Z": None}, "nested": {"x": {"y": [{"z": "deep"}]}},
    "people": [
        {"name": "Ann", "age": 31, "city": "Rome", "tags": ["x"]},
        {"name": "bob", "age": 25, "city": "Oslo", "tags": []},
        {"name": "Cy", "age": 31, "city": "rome", "tags": ["y", "z"]},
    ],
    "empty": [], "emptyd": {}, "quote": "it's \"q\" \\ \t é \x07 \u2028 😀", "html": "<a href='x'>T&amp;C</a>", "path": "a/b c?d=é",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": None}],
    "tools": None, "long": "The quick brown fox jumps over the lazy-dog and runs away from here",
}

cases = []


def case(source, **context):
    cases.append((source, context))


def exprs(*sources):
    for source in sources:
        case("{{ " + source + " }}")


VALUES = ["s", "e", "n", "neg", "f", "big", "t", "none_value", "l", "d", "empty", "emptyd", "missing", "(1, 2)", "range(3)",
          "d.items()", "l | map('string')", "namespace(a=1)", "d.get", "html | safe"]
TESTS = ["odd", "even", "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "lower", "upper",
         "string", "mapping", "number", "sequence", "iterable", "callable", "escaped", "divisibleby 3", "sameas none",
         "in [7, 'Hello, World']", "eq 7", "ne 7", "gt 2", "lt 9", "ge 7", "le 7", "filter", "test"]
for value in VALUES:
    for test in TESTS:
        exprs(f"({value}) is {test}")
    exprs(f"{value} is not defined", f"not ({value})", f"({value}) | default('D')", f"({value}) | default('D', true)",
          f"({value}) | length", f"({value}) | list", f"({value}) | string", f"({value}) | int", f"({value}) | float",
          f"({value}) | tojson", f"({value}) | first", f"({value}) | last", f"({value}) | join('-')", f"({value}) | trim",
          f"({value}) | upper", f"({value}).x", f"({value})['x']", f"({value})[0]", f"({value})[1:]", f"({value}) + 'x'",
          f"({value}) ~ 'x'", f"({value}) * 2", f"({value}) == none", f"'a' in ({value})", f"1 in ({value})", f"({value}) < 3",
          f"[({value})]", f"({value}) | reverse | list", f"({value}) | sort", f"({value}) | unique | list",
          f"({value}) | sum", f"({value}) | max", f"({value}) | min", f"({value}) | items | list", f"({value}) | dictsort",
          f"-({value})", f"({value}) if ({value}) else 'falsy'", f"({value}) and 1", f"({value}) or 2", f"({value}) | abs",
          f"({value}) | round", f"({value}) | replace('l', 'L')", f"({value}) | wordcount", f"({value}) | capitalize",
          f"({value}) | title", f"({value}) | attr('x')", f"'%s' % ({value})", f"'{{}}'.format({value})", f"({value}) % 4",
          f"({value}) | select | list", f"({value}) | map('upper') | list", f"({value}) | batch(2) | list",
          f"({value}) | indent", f"({value}) | escape", f"({value}) | count")
    case("{% for x in " + value + " %}[{{ x }}]{% else %}none{% endfor %}")
    case("{% set a, b = " + value + " %}{{ a }}|{{ b }}")

# Numbers, as Python prints them.
exprs("1e20", "1e16", "1e15", "1e-4", "1e-5", "1.0", "100000.0", "0.1 + 0.2", "1/3", "7/2", "7//2", "-7//2", "7%3", "-7%3", "7%-3",
      "7.5//2", "-7.5//2", "7.5%2", "-7.5%2", "2**10", "2**-1", "2**0.5", "(-2)**2", "-2**2", "2**3**2", "10**18", "10**30", "1_000", "0x1f",
      "0b101", "0o17", "1.5e3", "1e3", "1E3", "2 * 3 + 4", "2 + 3 * 4", "(2 + 3) * 4", "10 - 3 - 2", "100 / 10 / 2", "1 / 0", "1 // 0", "1 % 0",
      "1.0 / 0", "1 + true", "true + true", "- -3", "+3", "--3", "3 - -3", "big + 1", "big * big", "1e308 * 10", "-(1e308 * 10)", "0.0", "-0.0",
      "5 | round", "5.5 | round", "2.5 | round", "0.5 | round", "2.675 | round(2)", "1234.5678 | round(-2)", "1234 | round(-2)",
      "2.4 | round(0, 'ceil')", "2.6 | round(method='floor')", "2.345 | round(2, 'ceil')", "2.5 | round | int", "3.99 | int", "-3.99 | int", "'12' | int", "' 12 ' | int", "'1_000' | int",
      "'12.7' | int", "'x' | int", "'x' | int(5)", "'ff' | int(0, 16)", "'0xff' | int(0, 16)", "'0b11' | int(0, 0)", "'1e3' | int", "'inf' | int", "'1.5' | float", "'x' | float(2)",
      "'nan' | float", "'-inf' | float", "'1e400' | float", "none | int", "none | int(3)", "[] | int", "-5 | abs", "-5.5 | abs", "3 | filesizeformat", "1000 | filesizeformat",
      "1 | filesizeformat", "123456789 | filesizeformat", "123456789 | filesizeformat(true)", "5 == 5.0", "5 == '5'", "true == 1", "none == false", "1 < 2 < 3", "1 < 3 < 2", "3 > 2 >= 2", "1 != 2",
      "'a' < 'b'", "'a' < 'B'", "[1, 2] < [1, 3]", "(1, 2) == (1, 2)", "[1, 2] == (1, 2)", "{'a': 1} == {'a': 1.0}", "1 < 'a'", "none < 1", "[1] + [2]", "(1,) + (2,)", "[1] * 3", "3 * 'ab'",
      "'ab' * -1", "'a' + 'b'", "'a' + 1", "1 + 'a'", "[1] + 'a'", "n.real", "n.bit_length()", "f.is_integer()", "1.5.real", "(1).imag")

# Strings.
for method in ["strip()", "lstrip()", "rstrip()", "strip(' ac')", "split()", "split(' ')", "split(none, 1)", "split(' ', 1)", "rsplit(' ', 1)", "rsplit(none, 1)", "rsplit()", "splitlines()",
               "splitlines(true)", "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "center(20)", "center(19, '*')", "ljust(20, '.')", "rjust(20, '.')", "zfill(20)",
               "replace('a', 'X')", "replace('', '-')", "replace(' ', '', 1)", "find('a')", "find('zz')", "rfind('a')", "index('a')", "index('zz')", "rindex('a')", "count('a')", "count('')",
               "startswith('  a')", "startswith(('x', ' '))", "endswith('\\n')", "startswith('a', 2)", "partition('b')", "partition('zz')", "rpartition('b')", "rpartition('zz')", "removeprefix('  a')", "removesuffix('\\n')", "isspace()",
               "isalpha()", "isdigit()", "isalnum()", "isupper()", "islower()", "istitle()", "isnumeric()", "isdecimal()", "isascii()", "isidentifier()", "isprintable()", "expandtabs()",
               "join(['x', 'y'])", "format()", "nothing()", "encode", "__class__", "split('')", "strip(1)"]:
    for value in ["sp", "s", "u", "e"]:
        exprs(f"{value}.{method}")
exprs("'-42'.zfill(6)", "'+42'.zfill(6)", "'abc'.zfill(2)", "'a,b,,c'.split(',')", "'a,b,,c'.split(',', 2)", "'a,b,,c'.rsplit(',', 2)", "'aXbXc'.split('X', maxsplit=1)", "','.join(l | map('string'))",
      "','.join([1, 2])", "','.join('abc')", "'x'.join({'a': 1, 'b': 2})", "'a\\tb'.expandtabs(4)", "'abc'[1]", "'abc'[-1]", "'abc'[5]", "'abc'[0:2]", "'abc'[::-1]", "'abcdef'[1:5:2]", "'abcdef'[-3:]", "'abcdef'[:-2]",
      "'abcdef'[5:1:-2]", "'abc'[10:]", "'abc'[-10:2]", "'abc'['x']", "'abc'.0", "l[::-1]", "l[1:]", "l[-1]", "l[10]", "l['x']", "l.0", "(1, 2, 3)[1:]", "(1, 2, 3)[::2]", "range(10)[2:8:3]", "range(10)[3]", "range(5)[1:3]", "l[none:2]", "l['a':]",
      "d['b']", "d.b", "d['missing']", "d.missing", "d.items", "d['items']", "emptyd.items", "emptyd['items']", "d.get('b')", "d.get('q')", "d.get('q', 5)", "d.keys() | list", "d.values() | list", "d.items() | list", "d.keys()", "d.values()",
      "d.items()", "d.copy()", "d.pop('b')", "d.update({'q': 1})", "l.append(1)", "l.index(1)", "l.index(9)", "l.count(1)", "l.sort()", "l.pop()", "dict(a=1, b=2)", "dict({'a': 1}, b=2)", "dict([('a', 1)])", "dict.fromkeys(['a', 'b'], 0)", "nested.x.y[0].z", "nested['x']['y'][0]['z']",
      "nested.q.y", "nested.x.y[5].z", "missing.x", "missing['x']", "missing[0]", "missing()", "missing.x.y", "n.x", "n.x.y", "none_value.x", "none_value.x.y", "{'a': 1}.a", "{1: 'x'}[1]", "{1: 'x'}[1.0]", "{true: 'x'}[1]", "{(1, 2): 'x'}[1, 2]",
      "{[1]: 2}", "{'a': 1, 'a': 2}", "'quote: ' ~ quote", "[quote]", "[1.0, none, true, 'a']", "{'k': none}", "(1,)", "()", "[]", "{}", "[[1, [2]], {'a': (1, 2)}]", "['it\\'s']", "['\"']", "['\\n\\t\\\\']", "u ~ 1 ~ none ~ true", "none ~ missing ~ 'x'",
      "'a' 'b'", "'a\\nb'", "'a\\\\nb'", "'\\x41\\u00e9\\U0001F600'", "'\\101'", "'\\q'", "\"a'b\"", "'a\"b'", "'\\'", "'tab\\there'", "'é'", "'a' in 'abc'", "'' in 'abc'", "1 in 'abc'", "'b' in d", "'x' not in d", "1 in none_value", "2 in range(3)", "2.0 in range(3)", "9 in range(3)",
      "[1] in [[1]]", "'a' in ['a'] and not false", "not 'a' in 'b'", "s is string and n is number", "range(5) | list", "range(1, 5) | list", "range(5, 1, -2) | list", "range(0)", "range(1, 10, 3)", "range(100001)", "range(1, 2, 0)", "range(2.5)", "range('a')", "range(missing)")

# % and format.
for spec in ["%s", "%r", "%d", "%i", "%5d", "%-5d|", "%05d", "%+d", "% d", "%x", "%X", "%#x", "%o", "%e", "%.2e", "%f", "%.2f", "%8.3f", "%-8.3f|", "%08.3f", "%g", "%.3g", "%G", "%c", "%%", "%5s", "%-5s|", "%.2s", "%5.1s", "%.3d", "%q", "%"]:
    for value in ["n", "f", "s", "neg", "none_value", "t", "(1, 2)", "l", "65"]:
        exprs(f"'{spec}' % ({value})")
exprs("'%s and %s' % ('a', 'b')", "'%s' % ('a', 'b')", "'%s %s' % 'a'", "'%(a)s %(b)d' % {'a': 1, 'b': 2}", "'%(a)s' % {}", "'%(a)s' % 1", "'%*d' % (5, 3)", "'%.*f' % (2, 3.14159)", "'x' % l", "'x' % 1", "'x' % {}", "'%s' % {'a': 1}", "'%s: %s' | format('a', 1)", "'%(x)s' | format(x=1)",
      "'{}'.format(1)", "'{} {}'.format(1, 'a')", "'{1} {0}'.format(1, 'a')", "'{a}'.format(a=1)", "'{a.b}'.format(a={'b': 1})", "'{a[b]}'.format(a={'b': 1})", "'{0[1]}'.format([1, 2])", "'{{}}'.format()", "'{!r}'.format('a')", "'{!s}'.format(1)", "'{:>5}'.format('a')", "'{:<5}|'.format('a')",
      "'{:^5}|'.format('a')", "'{:*^7}'.format('a')", "'{:5}|'.format('a')", "'{:5}|'.format(1)", "'{:05}'.format(1)", "'{:05}'.format(-1)", "'{:+}'.format(1)", "'{: }'.format(1)", "'{:,}'.format(1234567)", "'{:_}'.format(1234567)", "'{:,.2f}'.format(1234567.891)", "'{:x}'.format(255)", "'{:#x}'.format(255)",
      "'{:b}'.format(5)", "'{:#b}'.format(5)", "'{:o}'.format(8)", "'{:c}'.format(65)", "'{:.2f}'.format(1)", "'{:.3}'.format(1.23456)", "'{:.3}'.format('abcdef')", "'{:e}'.format(12345.678)", "'{:g}'.format(0.00001)", "'{:g}'.format(1e20)", "'{:%}'.format(0.25)", "'{:.1%}'.format(0.256)", "'{:d}'.format(1.5)",
      "'{:s}'.format(1)", "'{:d}'.format('a')", "'{:{}}|'.format('a', 5)", "'{:{w}}|'.format('a', w=5)", "'{}'.format()", "'{0} {}'.format(1, 2)", "'{} {0}'.format(1, 2)", "'{'.format()", "'}'.format()", "'{:>{w}.{p}f}'.format(3.14159, w=8, p=2)", "'{}'.format(none)", "'{}'.format(true)", "'{:5}|'.format(true)", "'{:>5}'.format(none)",
      "'{}'.format([1, 'a'])", "'{x}'.format_map({'x': 1})", "'{a.b.c}'.format(a={'b': {'c': 'deep'}})", "'{:n}'.format(5)", "'{:=+5}'.format(3)", "'{:.0f}'.format(2.5)", "'{:10.3e}|'.format(1.5)", "'{!q}'.format(1)")

# Filters with their arguments.
exprs("ls | sort", "ls | sort(reverse=true)", "ls | sort(case_sensitive=true)", "ls | sort(true, true)", "people | sort(attribute='name') | map(attribute='name') | list", "people | sort(attribute='age,name') | map(attribute='name') | list", "people | sort(attribute='tags.0') | list | length", "mixed | sort",
      "d | dictsort", "d | dictsort(true)", "d | dictsort(by='value')", "{'b': 2, 'a': 3, 'C': 1} | dictsort(false, 'value', true)", "{'b': 2, 'a': 3, 'C': 1} | dictsort(reverse=true)", "{'b': 1} | dictsort(by='x')", "people | map(attribute='name') | join(', ')", "people | map(attribute='tags.0') | list", "people | map(attribute='nope', default='-') | list",
      "people | map('attr', 'name') | list", "ls | map('upper') | join", "ls | map('replace', 'a', 'z') | list", "l | map('string') | list", "ls | map('default', 'x') | list", "ls | map | list", "ls | map('nosuch') | list", "ls | map(attribute='x', foo=1) | list", "l | select('odd') | list", "l | select('gt', 1) | list", "l | select | list", "l | reject('odd') | list", "mixed | select('string') | list",
      "people | selectattr('age', 'equalto', 31) | map(attribute='name') | list", "people | selectattr('age', '==', 31) | list | length", "people | selectattr('tags') | list | length", "people | rejectattr('tags') | list | length", "people | selectattr('nope', 'defined') | list", "people | rejectattr('age', 'lt', 30) | list | length", "people | selectattr('age', 'in', [25]) | map(attribute='name') | first", "people | selectattr | list", "l | select('nosuch') | list",
      "people | groupby('city') | length", "people | groupby('city')", "people | groupby('age') | map(attribute='grouper') | list", "people | groupby('nope', default='x') | length", "people | groupby('city', case_sensitive=true) | length", "ls | unique | list", "['a', 'A', 'b'] | unique | list", "['a', 'A', 'b'] | unique(true) | list", "people | unique(attribute='age') | map(attribute='name') | list", "[1, 1.0, true] | unique | list",
      "l | min", "l | max", "ls | min", "ls | max(case_sensitive=true)", "people | max(attribute='age')", "people | min(attribute='age') | tojson", "empty | max", "empty | first", "empty | last", "l | first", "l | last", "'abc' | first", "'abc' | last", "d | first", "d | last", "l | sum", "people | sum(attribute='age')", "people | sum('age', 10)", "[[1], [2]] | sum(start=[])", "['a'] | sum", "[0.1, 0.2] | sum",
      "l | batch(2) | list", "l | batch(2, 'x') | list", "range(7) | batch(3) | map('list') | list", "range(7) | slice(3) | list", "range(7) | slice(3, 'x') | list", "range(2) | slice(3) | list", "l | join", "l | join(', ')", "l | join(d='+')", "people | join(', ', 'name')", "people | join(', ', attribute='name')", "'abc' | join('-')", "mixed | join(',')", "d | join(',')", "none | join",
      "l | reverse | list", "'abc' | reverse", "d | reverse | list", "l | list", "'ab' | list", "d | list", "s | replace('l', 'L')", "s | replace('l', 'L', 1)", "n | replace(7, 8)", "s | trim", "sp | trim", "'xxaxx' | trim('x')", "s | upper", "s | lower", "'hello wORLD foo-bar (baz)' | title", "'hELLO' | capitalize", "s | center(30)", "s | center", "s | length", "s | count", "long | truncate(20)",
      "long | truncate(20, true)", "long | truncate(20, false, '!')", "long | truncate(20, true, '..', 0)", "long | truncate(60)", "long | truncate(66)", "long | truncate(2)", "long | wordwrap(20)", "long | wordwrap(10, false)", "long | wordwrap(5)", "long | wordwrap(20, wrapstring='|')", "long | wordcount", "'a\\nb\\n\\nc' | indent", "'a\\nb\\n\\nc' | indent(2)", "'a\\nb\\n\\nc' | indent(2, true)", "'a\\nb\\n\\nc' | indent(2, first=true, blank=true)", "'a\\nb' | indent('--')", "'a\\nb\\n' | indent(1)", "'' | indent(2, true)",
      "html | escape", "html | e", "html | safe", "html | safe | escape", "html | forceescape", "html | striptags", "(html | safe) + '<b>'", "'<b>' + (html | safe)", "(html | safe) ~ '<b>'", "html | safe | upper", "(html | escape) | length", "path | urlencode", "{'a': 'b c', 'd': 1} | urlencode", "[('a', 'b/c')] | urlencode", "{'class': 'a', 'id': none, 'x': '<'} | xmlattr", "{'a b': 1} | xmlattr", "{'class': 'a'} | xmlattr(false)",
      "d | items | list", "missing | items | list", "l | items | list", "d | attr('items')", "d | attr('b')", "s | attr('upper')", "people[0] | attr('name')", "s | string", "n | string | length", "l | string", "missing | default", "missing | default('x')", "e | default('x')", "e | default('x', true)", "e | d('x', boolean=true)", "none_value | default('x')", "none_value | default('x', true)", "missing.x | default('y')", "(missing | default({})).x | default('y')", "nested.q | default('y')",
      "s | nosuch", "s is nosuch", "s | upper(1)", "s | replace", "s | default(1, 2, 3)", "s | default(foo=1)", "l | tojson", "d | tojson", "d | tojson(indent=2)", "d | tojson(indent=0)", "d | tojson(true)", "quote | tojson", "quote | tojson(ensure_ascii=true)", "d | tojson(separators=(',', ':'))", "d | tojson(separators=[',', ':'])", "d | tojson(indent=4, separators=(';', '='))", "d | tojson(sort_keys=true)", "{'b': {'d': 1, 'c': 2}, 'a': 1} | tojson(sort_keys=true, indent=1)", "d | tojson(indent='\\t')", "d | tojson(indent=none)",
      "[] | tojson(indent=2)", "{} | tojson(indent=2)", "[[], {}] | tojson(indent=2)", "(1, 2) | tojson", "1e20 | tojson", "1e-7 | tojson", "1.0 | tojson", "big | tojson", "{1: 2, none: 3, true: 4, 1.5: 5} | tojson", "{(1, 2): 3} | tojson", "html | tojson", "missing | tojson", "range(2) | tojson", "d.items() | tojson", "d.items() | list | tojson", "(l | map('string')) | tojson", "{'a': missing} | tojson", "d | tojson | safe", "d | tojson | length", "d | tojson(foo=1)", "none | tojson", "true | tojson", "'a/b' | tojson", "1e400 | tojson", "d | pprint")

# Statements.
TEMPLATES = [
    "{% if n > 5 %}A{% elif n > 3 %}B{% else %}C{% endif %}", "{% if missing %}A{% else %}B{% endif %}", "{% if not missing %}A{% endif %}", "{% if tools %}T{% endif %}x", "{% if tools is iterable and tools | length > 0 %}T{% endif %}x",
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}", "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% for x in none %}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{% else %}E{% endfor %}", "{% for x in l if x > 9 %}{{ x }}{% else %}E{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}", "{% for x in l %}{% for y in 'ab' %}{{ loop.index }}{% if y == 'a' %}{% continue %}{% endif %}{{ x }}{{ y }}{% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for i in [[1, [2]], [3]] recursive %}{% if i is sequence %}<{{ loop(i) }}>{% else %}{{ i }}d{{ loop.depth }}{% endif %}{% endfor %}", "{% for i in [1] %}{{ loop([2]) }}{% endfor %}", "{% for x in 'abc' %}{{ x }}-{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for x in l %}{{ loop }}{% endfor %}", "{% for x in l | reverse %}{{ loop.length }}{{ x }}{% endfor %}", "{% for x in people | selectattr('tags') %}{{ loop.index }}{{ loop.last }}{{ x.name }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}", "{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }} {% endfor %}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% if false %}{% set x = 2 %}{% endif %}{{ x is defined }}", "{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace() %}{% set ns.a = [1] %}{% set ns.a = ns.a + [2] %}{{ ns.a }}{{ ns.b is defined }}{{ ns.b }}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}{{ ns }}",
    "{% set d.x = 1 %}", "{% set n.x = 1 %}", "{% set ns = namespace(_x=1) %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a = (1,) %}{{ a }}", "{% set a, b = [1, 2, 3] %}", "{% set a, b = 'xy' %}{{ b }}{{ a }}", "{% set x %}a{{ n }}b{% endset %}{{ x }}|{{ x | length }}", "{% set x | upper %}a{{ s }}b{% endset %}{{ x }}", "{% set x | replace('a', 'b') | trim %} aXa {% endset %}[{{ x }}]", "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y is defined }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}", "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}", "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aaa{% endfilter %}", "{% filter indent(2, true) %}a\nb{% endfilter %}",
    "{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m(a=5) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}C{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}C{% endcall %}", "{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}C{% endcall %}",
    "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}", "{% macro m() %}{{ y }}{% endmacro %}{% set y = 5 %}{{ m() }}", "{% macro m() %}{% set x = 5 %}{% endmacro %}{{ m() }}{{ x is defined }}", "{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}", "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(*[1]) }}{{ m(**{'x': 2}) }}{{ m(m(3)) }}", "{% macro m(x) -%} {{ x }} {%- endmacro %}{{ m(1) | length }}", "{{ m }}{% macro m() %}{% endmacro %}{{ m }}", "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}",
    "{% generation %}a{% set q = 1 %}{{ n }}{% endgeneration %}{{ q is defined }}", "{%- generation -%} a {%- endgeneration -%} b", "{% block x %}a{{ n }}{% endblock %}b", "{% block x scoped %}a{% endblock x %}", "{% set z = 1 %}{% block x %}{{ z }}{% endblock %}", "{% print n, s %}", "{% raw %}{{ n }}{% if %}{% endraw %}x", "{% raw -%}  a  {%- endraw %} b", "{# comment #}a{#- c -#} b", "a {# {{ n }} #} b", "{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% extends 'x' %}", "{% do l.append(1) %}", "{% nosuch %}", "{% if n %}", "{% endif %}", "{{ n", "{{ n }", "{{ }}", "{% for %}", "{% set %}", "{{ 1 + }}", "{{ (1 }}", "{{ [1 }}", "{{ {'a' 1} }}", "{{ a b }}", "{{ 'a }}", "{% if n %}a{% else %}b{% else %}c{% endif %}", "{{ 1 is is defined }}", "{{ n..x }}", "{{ @ }}", "{# no end",
    # White space.
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  {%+ if true %}\n  b\n  {%+ endif %}\nc", "a\n  {% if true +%}\n  b\n  {% endif +%}\nc", "a  {%- if true -%}  b  {%- endif -%}  c", "a  {{- n -}}  c", "a  {{ n }}  \n c", "{{ n }}\n{{ n }}\n", "{{ n }}\n\n", "\n\na", "  {{ n }}", "  {# c #}  a", "a\n  {# c #}\nb", "{% if true %}\r\na\r\n{% endif %}\rb", "a {% if true %} b {% endif %} c", "\t{% if true %}\ta{% endif %}", "x {% set a = 1 %}\ny", "  {% set a = 1 %}\n  {% set b = 2 %}\n  c", "{% for i in l %}\n  {{ i }}\n{% endfor %}", "{% for i in l -%}\n  {{ i }}\n{%- endfor %}", "{{-5}}", "{{ -5 }}", "{{+5}}", "{% if true %}{{ {'a': {'b': 1}}['a'] }}{% endif %}", "{{ {'a': {}} }}", "{{ '}}' }}", "{{ '%}' }}", "{% set x = '%}' %}{{ x }}", "a{{ '' }}\nb", "{{ 'a\nb' }}", "{%\nif\ntrue\n%}x{%\nendif\n%}", "\u00a0{% if true %}x{% endif %}", "a\u2003{%- if true %}x{% endif %}", "{%- set x = 1 -%}\n\n\n{{ x }}", "{{ n }}{# #}\n{{ n }}", "{% raw %}\n a\n{% endraw %}\nb",
    # Calls, conditions and the rest.
    "{{ 'a' if n == 7 }}", "{{ 'a' if n == 8 }}", "{{ ('a' if n == 8) is defined }}", "{{ 'a' if n == 8 else 'b' if n == 9 else 'c' }}", "{{ ('a' if n == 8).x }}", "{{ n is defined and n is not none }}", "{{ n if n is defined else 0 }}", "{{ missing is defined or n }}", "{{ s is string if true else 0 }}", "{{ not n is defined }}", "{{ n is not defined }}", "{{ n is not string }}", "{{ -n is number }}", "{{ -n | abs }}", "{{ n | string ~ 'a' }}", "{{ 'a' ~ n + 1 }}", "{{ 1 ~ 2 * 3 }}", "{{ 1 + 2 ~ 3 }}", "{{ l | length > 2 }}", "{{ l | length + 1 }}", "{{ 'a' in l | map('string') }}", "{{ 3 in l and 4 not in l }}", "{{ n == 7 and s == 'x' or f == 2.5 }}", "{{ not true or true }}", "{{ messages[0]['role'] == 'system' }}", "{{ messages[-1].content is none }}", "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join }}", "{{ messages[1:] | length }}", "{{ messages | map(attribute='role') | list }}", "{{ (messages | last).role }}", "{{ (messages | first)['content'] }}", "{{ messages[0].tool_calls is defined }}", "{{ messages[0].tool_calls | default([]) | length }}", "{{ messages[0].get('x', 'd') }}", "{{ messages }}", "{{ messages | tojson }}", "{{ self }}x" if False else "{{ n }}x",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner('|') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b", "{{ cycler() }}", "{{ raise_exception('No') }}", "{{ raise_exception('No ' ~ n) }}", "{{ raise_exception() }}", "{% if false %}{{ raise_exception('No') }}{% endif %}ok", "{{ range }}" if False else "{{ range(3) }}", "{{ lipsum is defined }}", "{{ dict is defined }}", "{{ n() }}", "{{ s.upper }}" if False else "{{ s.upper() }}", "{{ s.upper()() }}", "{{ (s.upper)() }}", "{{ d.get('a')[0] }}", "{{ d['get']('b') }}", "{{ 'x'.join(d) }}", "{{ [1, 2, 3,] }}", "{{ {'a': 1,} }}", "{{ (1, 2,) }}", "{{ s[:3] ~ s[-3:] }}", "{{ s[1:][0] }}", "{{ l[n - 7] }}", "{{ d[none] is defined }}", "{{ d[l] is defined }}", "{{ people[0]['name'][0] }}", "{{ [people[0].name, 'x'] | join }}", "{{ 'a' | upper | lower ~ 'b' | upper }}", "{{ ['a', 'b'] | join(', ') | upper }}", "{{ (l | sort)[0] }}", "{{ l | sort | first }}", "{% set l2 = l + [4] %}{{ l2 }}{{ l }}", "{% set x = d.items() | list %}{{ x[0][0] }}", "{% set m = l | map('string') %}{{ m | list }}{{ m | list }}", "{% for a in l | map('string') %}{{ a }}{% endfor %}", "{% set g = people | groupby('age') %}{% for age, who in g %}{{ age }}{{ who | length }}{% endfor %}{{ g[0].grouper }}{{ g[0].list | length }}", "{{ x.y if x is defined else 'none' }}", "{{ none_value is none and missing is undefined }}", "{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}", "{{ n.__class__ }}x", "{{ ''.__class__.__mro__ }}", "{{ d._x }}y", "{{ l.__len__() }}", "{% set loop = 1 %}{{ loop }}", "{% for i in l %}{% set loop_index = loop.index %}{{ loop_index }}{% endfor %}", "{% for i in l %}{{ i }}{% if loop.first %}f{% elif loop.last %}l{% else %}m{% endif %}{% endfor %}",
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content or '' }}{% endfor %}", "{% for m in messages %}{% if m.content is string %}{{ m.content | trim }}{% endif %}{% endfor %}", "{%- for m in messages %}{%- if loop.first and m['role'] == 'system' %}{%- set sys = m['content'] %}{%- endif %}{%- endfor %}{{ sys is defined }}", "{% set content = 'a' %}{% if 1 %}{% set content = content + 'b' %}{% endif %}{{ content }}", "{{ '\\n'.join(['a', 'b']) }}", "{{ 'a\\n\\nb'.split('\\n') }}", "{{ '</think>' in 'x</think>y' }}{{ 'x</think>y'.split('</think>')[-1].lstrip('\\n') }}", "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}",
]
for template in TEMPLATES:
    case(template)


def expected(source, context):
    try:
        return {"out": _compile_jinja_template(source).render(**copy.deepcopy({**CONTEXT, **context}))}
    except Exception as error:
        return {"error": type(error).__name__}


# What Python prints with an address in it, what depends on its version, and what the crate's documentation says is left out.
UNCOMPARED = (" at 0x", "<function", "<bound method", "<built-in method", "<class ")
seen, out = set(), []
for source, context in cases:
    if source in seen:
        continue
    seen.add(source)
    result = expected(source, context)
    shown = result.get("out", "").lower()
    # The name of a generator's function is not shown here, so neither are its words counted.
    if any(mark in shown for mark in UNCOMPARED) or any(f"({one}) | wordcount" in source for one in ("l | map('string')", "d.get")):
        continue
    out.append({"template": source, **({"with": context} if context else {}), **result})

here = os.path.dirname(os.path.abspath(__file__))
head = {"jinja2": jinja2.__version__, "transformers": transformers.__version__, "context": CONTEXT}
with open(os.path.join(here, "jinja2_cases.json"), "w", encoding="utf-8") as file:
    file.write("{\n" + json.dumps(head, ensure_ascii=False)[1:-1] + ',\n"cases": [\n')
    file.write(",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in out))
    file.write("\n]}\n")
print(len(out), "cases,", sum("error" in one for one in out), "of them errors")
