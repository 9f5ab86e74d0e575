//! Arguments of a call, read with errors that a model can act on.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use yushan_abi::{Effect, Label, ParamRole, Sources, ToolResult, ToolSpec};

/// Reads the arguments of a call as a type whose fields are the parameters.
///
/// # Errors
/// Which field is wrong, as a result that has failed.
pub fn read<T: DeserializeOwned>(arguments: &Value) -> Result<T, ToolResult> {
    T::deserialize(arguments).map_err(|error| refused(format!("the arguments do not fit: {error}")))
}

/// A refusal of the driver's own: nothing in it comes from outside.
pub fn refused(text: impl Into<String>) -> ToolResult {
    ToolResult::failed(text, Label::of(Sources::SYSTEM))
}

/// Describes a tool: `properties` of its schema, which of them must be given, and the role of each.
pub fn spec(
    name: &str,
    description: &str,
    effect: Effect,
    properties: Value,
    required: &[&str],
    roles: &[(&str, ParamRole)],
) -> ToolSpec {
    let schema = json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    });
    ToolSpec {
        name: name.into(),
        description: description.into(),
        schema,
        effect,
        roles: roles.iter().map(|&(name, role)| (name.to_string(), role)).collect(),
    }
}
