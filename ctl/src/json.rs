//! Messages from and to protobuf's JSON.

use std::io::{self, Read as _};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Deserializer, Serializer};

use crate::failure::Failure;

/// More is not read from standard input. The largest body is 64 MiB, and base64 a third longer.
const STDIN_BYTES_MAX: u64 = 128 << 20;

/// What an argument stands for: itself, or standard input.
pub(crate) fn argument(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut text = String::new();
    let read = io::stdin()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_string(&mut text);
    read.map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
    if text.len() as u64 > STDIN_BYTES_MAX {
        let text = format!("standard input has more than {STDIN_BYTES_MAX} bytes");
        return Err(Failure::Usage(text));
    }
    Ok(text)
}

/// Encodes the message that `json` stands for.
///
/// # Errors
/// What is wrong, for a reader.
pub(crate) fn encode(descriptor: &MessageDescriptor, json: &str) -> Result<Bytes, String> {
    let mut input = Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(descriptor.clone(), &mut input);
    let message = message.and_then(|message| input.end().map(|()| message));
    let message = message
        .map_err(|error| format!("not the JSON of a {}: {error}", descriptor.full_name()))?;
    Ok(message.encode_to_vec().into())
}

/// The JSON of an encoded message, in one line. `defaults`: also of fields that have their default
/// value.
///
/// # Errors
/// What is wrong, for a reader.
pub(crate) fn decode(
    descriptor: &MessageDescriptor,
    message: Bytes,
    defaults: bool,
) -> Result<String, String> {
    let message = DynamicMessage::decode(descriptor.clone(), message);
    let message = message
        .map_err(|error| format!("it does not decode as {}: {error}", descriptor.full_name()))?;
    to_json(&message, defaults).map_err(|error| format!("it has no JSON: {error}"))
}

/// The JSON of a message without values, as a form to fill in.
pub(crate) fn form(descriptor: &MessageDescriptor) -> String {
    let empty = DynamicMessage::new(descriptor.clone());
    to_json(&empty, true).unwrap_or_else(|_| "{}".to_owned())
}

fn to_json(message: &DynamicMessage, defaults: bool) -> serde_json::Result<String> {
    let mut json = Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(!defaults);
    message.serialize_with_options(&mut json, &options)?;
    Ok(String::from_utf8_lossy(&json.into_inner()).into_owned())
}
