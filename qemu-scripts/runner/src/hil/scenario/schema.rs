//! The parts of the JSON schema whose types are the card's.
//!
//! Fed by the kinds of faults and liberties that the card knows; feeds [`schema`], which `hil --schema` prints.

use super::Scenario;
use dmus_card::deviation::{Fault, Liberty};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// The schema of a scenario's file.
pub(crate) fn schema() -> Schema {
    schemars::schema_for!(Scenario)
}

/// Occasions by name.
fn occasions(names: impl Iterator<Item = &'static str>) -> Value {
    let number = json!({ "type": "integer", "minimum": 1 });
    let occasions = json!({ "anyOf": [number, { "type": "array", "items": number }] });
    let names: Map<String, Value> = names.map(|name| (name.to_owned(), occasions.clone())).collect();
    json!({ "type": "object", "properties": names, "additionalProperties": false })
}

pub(super) fn faults(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(occasions(Fault::ALL.iter().map(|fault| fault.name()))).unwrap_or_default()
}

pub(super) fn liberties(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "seed": { "type": "integer", "minimum": 0 },
            "only": occasions(Liberty::ALL.iter().map(|liberty| liberty.name())),
        },
        "required": ["seed"],
        "additionalProperties": false,
    })
}
