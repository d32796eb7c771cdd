//! Descriptors as text, much as the `.proto` had them. Messages and enums go by their full names and
//! none is inside another; comments are not in descriptors.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Write as _};

use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor, Syntax,
};

/// A service with some of its methods, and all messages and enums that these need.
pub(crate) fn describe(service: &ServiceDescriptor, methods: &[MethodDescriptor]) -> String {
    let mut text = String::new();
    write_all(&mut text, service, methods).expect("a String takes any text");
    text
}

fn write_all(
    out: &mut String,
    service: &ServiceDescriptor,
    methods: &[MethodDescriptor],
) -> fmt::Result {
    writeln!(out, "// {}", service.parent_file().name())?;
    writeln!(out, "service {} {{", service.full_name())?;
    let mut types = Types::default();
    for method in methods {
        let (input, output) = (method.input(), method.output());
        let name = method.name();
        let args = stream(method.is_client_streaming(), &input);
        let reply = stream(method.is_server_streaming(), &output);
        writeln!(out, "  rpc {name}({args}) returns ({reply});")?;
        types.add(Kind::Message(input));
        types.add(Kind::Message(output));
    }
    writeln!(out, "}}")?;

    while let Some(kind) = types.next.pop_front() {
        writeln!(out)?;
        match kind {
            Kind::Message(message) => write_message(out, &message, &mut types)?,
            Kind::Enum(values) => write_enum(out, &values)?,
            _ => {}
        }
    }
    Ok(())
}

fn stream(is_stream: bool, message: &MessageDescriptor) -> String {
    let stream = if is_stream { "stream " } else { "" };
    format!("{stream}{}", message.full_name())
}

/// The messages and enums to be written.
#[derive(Default)]
struct Types {
    next: VecDeque<Kind>,
    seen: BTreeSet<String>,
}

impl Types {
    /// Adds a message or an enum, once. Those of protobuf itself everybody knows.
    fn add(&mut self, kind: Kind) {
        let name = match &kind {
            Kind::Message(message) => message.full_name(),
            Kind::Enum(values) => values.full_name(),
            _ => return,
        };
        if !name.starts_with("google.protobuf.") && self.seen.insert(name.to_owned()) {
            self.next.push_back(kind);
        }
    }
}

fn write_message(out: &mut String, message: &MessageDescriptor, types: &mut Types) -> fmt::Result {
    writeln!(out, "message {} {{", message.full_name())?;
    let mut oneofs = BTreeSet::new();
    for field in message.fields() {
        match field
            .containing_oneof()
            .filter(|oneof| !oneof.is_synthetic())
        {
            None => write_field(out, "  ", &field, types)?,
            Some(oneof) => {
                if oneofs.insert(oneof.name().to_owned()) {
                    writeln!(out, "  oneof {} {{", oneof.name())?;
                    for field in oneof.fields() {
                        write_field(out, "    ", &field, types)?;
                    }
                    writeln!(out, "  }}")?;
                }
            }
        }
    }
    writeln!(out, "}}")
}

fn write_field(
    out: &mut String,
    indent: &str,
    field: &FieldDescriptor,
    types: &mut Types,
) -> fmt::Result {
    let (name, number) = (field.name(), field.number());
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            types.add(value.kind());
            format!(
                "map<{}, {}>",
                type_name(&key.kind()),
                type_name(&value.kind())
            )
        }
        kind => {
            let label = label(field);
            let text = format!("{label}{}", type_name(&kind));
            types.add(kind);
            text
        }
    };
    writeln!(out, "{indent}{kind} {name} = {number};")
}

fn label(field: &FieldDescriptor) -> &'static str {
    let in_oneof = field
        .containing_oneof()
        .is_some_and(|it| !it.is_synthetic());
    match field.cardinality() {
        Cardinality::Repeated => "repeated ",
        Cardinality::Required => "required ",
        Cardinality::Optional if field.field_descriptor_proto().proto3_optional() => "optional ",
        Cardinality::Optional if field.parent_file().syntax() == Syntax::Proto2 && !in_oneof => {
            "optional "
        }
        Cardinality::Optional => "",
    }
}

fn type_name(kind: &Kind) -> String {
    let name = match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(message) => message.full_name(),
        Kind::Enum(values) => values.full_name(),
    };
    name.to_owned()
}

fn write_enum(out: &mut String, values: &EnumDescriptor) -> fmt::Result {
    writeln!(out, "enum {} {{", values.full_name())?;
    for value in values.values() {
        writeln!(out, "  {} = {};", value.name(), value.number())?;
    }
    writeln!(out, "}}")
}
