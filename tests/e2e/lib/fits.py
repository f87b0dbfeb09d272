"""fits.py COMMAND < document: whether a printed document fits docs/schemas/COMMAND.json.

It knows the part of JSON Schema that these schemas use.
"""
import json, re, sys

SCHEMAS = "/usr/local/share/doc/mvm/schemas"
KINDS = {"null": lambda v: v is None, "boolean": lambda v: isinstance(v, bool),
         "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
         "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
         "string": lambda v: isinstance(v, str), "array": lambda v: isinstance(v, list),
         "object": lambda v: isinstance(v, dict)}

def fits(schema, value, at="$"):
    """The reason why a value does not fit, or None."""
    if "$ref" in schema:
        return fits(ROOT["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, at)
    if "anyOf" in schema:
        reasons = [fits(one, value, at) for one in schema["anyOf"]]
        return None if None in reasons else f"{at} fits none: " + "; ".join(reasons)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(KINDS[kind](value) for kind in kinds): return f"{at}: {value!r} is no {kinds}"
    if value not in schema.get("enum", [value]): return f"{at}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value): return f"{at}: {value!r} has another form"
    if isinstance(value, (int, float)) and value < schema.get("minimum", value): return f"{at}: {value!r} is too small"
    if isinstance(value, list):
        return next(filter(None, (fits(schema["items"], one, f"{at}[{n}]") for n, one in enumerate(value))), None)
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", []):
            if name not in value: return f"{at}: {name} is missing"
        for name, one in value.items():
            rule = known.get(name, more)
            if rule is False: return f"{at}.{name} is unknown"
            if isinstance(rule, dict) and (reason := fits(rule, one, f"{at}.{name}")): return reason
    return None

ROOT = json.load(open(f"{SCHEMAS}/{sys.argv[1]}.json"))
reason = fits(ROOT, json.load(sys.stdin))
if reason: sys.exit(f"FAILED: {sys.argv[1]}: {reason}")
print(f"ok: the document of {sys.argv[1]} fits its schema")
