//! Values against schemas of an OpenAPI document: as strict as can be, so that neither can drift from the other. A keyword that is not known
//! here is a failure, and so is a field that the schema does not name.

use serde_json::{Map, Value};

/// Says nothing about what a value may be.
const WORDS: [&str; 4] = ["description", "example", "format", "title"];

/// What is wrong with a value; nothing when all is well.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(schema) = schema.as_object() else { return Err(format!("{schema} is no schema")) };
    let known = [
        "$ref",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "items",
        "enum",
        "oneOf",
        "minimum",
        "minProperties",
        "maxProperties",
    ];
    if let Some(key) = schema.keys().find(|key| !known.contains(&key.as_str()) && !WORDS.contains(&key.as_str())) {
        return Err(format!("{key} is not understood"));
    }
    if let Some(name) = schema.get("$ref") {
        let name = name.as_str().and_then(|name| name.strip_prefix('#')).ok_or("a reference to elsewhere")?;
        let meant = document.pointer(name).ok_or_else(|| format!("{name} is not there"))?;
        return check(document, meant, value);
    }
    if let Some(choices) = schema.get("oneOf") {
        let all = choices.as_array().ok_or("oneOf is no list")?;
        return match all.iter().filter(|choice| check(document, choice, value).is_ok()).count() {
            1 => Ok(()),
            n => Err(format!("{value} fits {n} of {choices}")),
        };
    }
    if schema.get("enum").is_some_and(|all| !all.as_array().is_some_and(|all| all.contains(value))) {
        return Err(format!("{value} is none of {}", schema["enum"]));
    }
    let kinds = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.clone(),
        Some(kind) => vec![kind.clone()],
        None => return Err(format!("{schema:?} says nothing of its type")),
    };
    if !kinds.iter().any(|kind| is(kind, value)) {
        return Err(format!("{value} is none of {kinds:?}"));
    }
    match value {
        Value::Object(fields) => object(document, schema, fields),
        Value::Array(items) => {
            let of = schema.get("items").ok_or("a list of what?")?;
            items.iter().try_for_each(|item| check(document, of, item))
        }
        Value::Number(number) => match (schema.get("minimum").and_then(Value::as_f64), number.as_f64()) {
            (Some(minimum), Some(is)) if is < minimum => Err(format!("{is} is below {minimum}")),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

fn object(document: &Value, schema: &Map<String, Value>, fields: &Map<String, Value>) -> Result<(), String> {
    for key in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(key.as_str().ok_or("a key that is no text")?) {
            return Err(format!("{key} is missing"));
        }
    }
    let count = |key: &str| schema.get(key).and_then(Value::as_u64);
    if count("minProperties").is_some_and(|least| (fields.len() as u64) < least) {
        return Err("too few fields".to_owned());
    }
    if count("maxProperties").is_some_and(|most| fields.len() as u64 > most) {
        return Err("too many fields".to_owned());
    }
    // An object of which nothing is said may be any.
    let Some(properties) = schema.get("properties").or_else(|| schema.get("additionalProperties")) else {
        return Ok(());
    };
    for (key, value) in fields {
        let named =
            schema.get("properties").and_then(|all| all.get(key)).or_else(|| schema.get("additionalProperties"));
        let of = named.ok_or_else(|| format!("{key} is not one of {properties}"))?;
        check(document, of, value).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_noticed() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"A": {"type": "object", "required": ["n"], "properties": {
        "n": {"type": "integer", "minimum": 0}, "t": {"type": ["string", "null"]},
        "l": {"type": "array", "items": {"type": "boolean"}}, "m": {"type": "object", "additionalProperties": {"type": "number"}},
        "o": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/A"}]},
    }}}}});
    let fits = |value: Value| check(&document, &json!({"$ref": "#/components/schemas/A"}), &value).is_ok();
    assert!(fits(json!({"n": 1, "t": null, "l": [true], "m": {"x": 1.5}, "o": {"n": 2}})));
    for wrong in [
        json!({}),
        json!({"n": -1}),
        json!({"n": "1"}),
        json!({"n": 1, "x": 1}),
        json!({"n": 1, "t": 1}),
        json!({"n": 1, "l": [1]}),
        json!({"n": 1, "m": {"x": "y"}}),
        json!({"n": 1, "o": {}}),
        json!([]),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
    assert!(check(&document, &json!({"type": "string", "pattern": "x"}), &json!("x")).is_err(), "not understood");
}
