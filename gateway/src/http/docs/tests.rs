use std::collections::BTreeSet;

use serde_json::Value;

use crate::http::{openapi, produce, read};

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

/// Every operation: `METHOD path` and its description.
fn operations(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().clone();
        methods
            .into_iter()
            .map(|(method, operation)| (format!("{method} {path}"), operation))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Names of an operation's parameters of one kind.
fn parameters(operation: &Value, kind: &str) -> BTreeSet<String> {
    let all = operation["parameters"].as_array().cloned().unwrap_or_default();
    let names = all.iter().filter(|parameter| parameter["in"] == kind).map(|parameter| &parameter["name"]);
    names.map(|name| name.as_str().unwrap().replace("<name>", "*")).collect()
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut unseen = vec![&document];
    while let Some(value) = unseen.pop() {
        match value {
            Value::Object(members) => {
                if let Some(target) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "dangling: {target}");
                }
                unseen.extend(members.values());
            }
            Value::Array(items) => unseen.extend(items),
            _ => {}
        }
    }
}

#[test]
fn every_parameter_body_and_schema_has_an_example() {
    let document = document();
    let has = |value: &Value| ["example", "examples"].iter().any(|name| value.get(name).is_some());
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut missing: Vec<String> = Vec::new();
    let mut content_of = |place: &str, value: &Value| {
        for (media, content) in value["content"].as_object().into_iter().flatten() {
            let schema =
                content["schema"]["$ref"].as_str().and_then(|name| schemas.get(name.rsplit('/').next()?));
            if !has(content) && !schema.is_some_and(has) {
                missing.push(format!("{place} {media}"));
            }
        }
    };
    let mut bare = Vec::new();
    for (name, operation) in operations(&document) {
        assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{name}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if !has(parameter) && !has(&parameter["schema"]) {
                bare.push(format!("{name} {}", parameter["name"]));
            }
        }
        content_of(&name, &operation["requestBody"]);
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].is_string(), "{name} {status}");
            content_of(&format!("{name} {status}"), response);
        }
    }
    let without = |(name, schema): (&String, &Value)| {
        (!has(schema) && schema.get("enum").is_none()).then(|| name.clone())
    };
    bare.extend(schemas.iter().filter_map(without));
    assert_eq!((bare, missing), (Vec::new(), Vec::new()));
}

#[test]
fn the_document_names_the_parameters_that_the_parsers_know() {
    let document = document();
    let known =
        |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let documented = |method: &str| -> BTreeSet<String> {
        let all = operations(&document).into_iter();
        let of_records = all.filter(|(name, _)| name.starts_with(method) && name.ends_with("/records"));
        of_records.flat_map(|(_, operation)| parameters(&operation, "query")).collect()
    };
    let mut read = known(&read::PARAMETERS);
    assert!(read.remove("lastEventId"), "another spelling of last_event_id");
    assert_eq!(documented("get"), read);
    assert_eq!(documented("post"), known(&produce::PARAMETERS));
}
