//! The tree as serde's data format: every failure is tied to the innermost node it happened in.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::super::later;
use super::super::problem::did_you_mean;
use super::{Key, Kind, Node, Scalar};

/// A failed deserialisation, tied to the innermost node it happened in.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(super) at: Option<u32>,
    /// A required key is not there.
    pub(super) missing: bool,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fault {
    fn new(message: String) -> Self {
        Fault {
            at: None,
            missing: false,
            message,
            help: None,
        }
    }

    fn at(mut self, id: u32) -> Self {
        self.at.get_or_insert(id);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::new(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Fault {
            missing: true,
            ..Fault::new(format!("`{field}` is missing here"))
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("unknown key `{field}`");
        let help = later(field).map(str::to_owned).or_else(|| {
            did_you_mean(field, expected.iter().copied())
                .or_else(|| Some(format!("known here: {}", expected.join(", "))))
        });
        Fault {
            help,
            ..Fault::new(message)
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let help = did_you_mean(variant, expected.iter().copied())
            .unwrap_or_else(|| format!("one of: {}", expected.join(", ")));
        Fault {
            help: Some(help),
            ..Fault::new(format!("`{variant}` is not known here"))
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Map => "a map".to_owned(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Unit => "nothing".to_owned(),
            de::Unexpected::Str(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        Fault::new(format!("expected {expected}, found {found}"))
    }
}

impl Scalar {
    fn is_null(&self) -> bool {
        self.plain
            && !self.expanded
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// Ties a failure to this node and hides the value of a variable in its message.
    fn fault(&self, fault: Fault) -> Fault {
        let mut fault = fault.at(self.id);
        if let Kind::Scalar(scalar) = &self.kind
            && scalar.expanded
            && !scalar.text.trim().is_empty()
        {
            fault.message = fault.message.replace(scalar.text.trim(), "${…}");
            fault.help = None;
        }
        fault
    }

    fn number<'de, V: Visitor<'de>>(
        &self,
        visitor: V,
        visit: impl FnOnce(&str, V) -> Option<Result<V::Value, Fault>>,
        what: &str,
    ) -> Result<V::Value, Fault> {
        let result = match &self.kind {
            Kind::Scalar(scalar) => visit(scalar.text.trim(), visitor).unwrap_or_else(|| {
                Err(Fault::new(format!(
                    "expected {what}, found `{}`",
                    scalar.text
                )))
            }),
            Kind::Seq(_) => Err(Fault::new(format!("expected {what}, found a list"))),
            Kind::Map(_) => Err(Fault::new(format!("expected {what}, found a map"))),
        };
        result.map_err(|fault| self.fault(fault))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor, |text, v| text.parse::<$type>().ok().map(|n| v.$visit(n)), $what)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &Node {
    type Error = Fault;

    /// What YAML's core schema says a value is; only for free-form values (`set`, `default`).
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = match &self.kind {
            Kind::Scalar(scalar) => scalar,
            Kind::Seq(_) => return self.deserialize_seq(visitor),
            Kind::Map(_) => return self.deserialize_map(visitor),
        };
        let text = scalar.text.as_str();
        let result = if scalar.is_null() {
            visitor.visit_unit()
        } else if !scalar.plain {
            visitor.visit_str(text)
        } else if let "true" | "True" | "false" | "False" = text {
            visitor.visit_bool(text.eq_ignore_ascii_case("true"))
        } else if let Ok(n) = text.parse::<i64>() {
            visitor.visit_i64(n)
        } else if let (Ok(n), true) = (
            text.parse::<f64>(),
            text.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
        ) {
            visitor.visit_f64(n)
        } else {
            visitor.visit_str(text)
        };
        result.map_err(|fault| self.fault(fault))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(
            visitor,
            |text, v| match text {
                "true" | "True" => Some(v.visit_bool(true)),
                "false" | "False" => Some(v.visit_bool(false)),
                _ => None,
            },
            "`true` or `false`",
        )
    }

    numbers! {
        deserialize_i8 visit_i64 i64, "a whole number";
        deserialize_i16 visit_i64 i64, "a whole number";
        deserialize_i32 visit_i64 i64, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_u64 u64, "a whole number";
        deserialize_u16 visit_u64 u64, "a whole number";
        deserialize_u32 visit_u64 u64, "a whole number";
        deserialize_u64 visit_u64 u64, "a whole number";
        deserialize_f32 visit_f64 f64, "a number";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.kind {
            Kind::Scalar(scalar) if scalar.is_null() => {
                Err(de::Error::invalid_type(de::Unexpected::Unit, &visitor))
            }
            Kind::Scalar(scalar) => visitor.visit_str(&scalar.text),
            Kind::Seq(_) => Err(de::Error::invalid_type(de::Unexpected::Seq, &visitor)),
            Kind::Map(_) => Err(de::Error::invalid_type(de::Unexpected::Map, &visitor)),
        };
        result.map_err(|fault| self.fault(fault))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::Scalar(scalar) if scalar.is_null() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A list; a single scalar is a list of one, and nothing is an empty list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items: &[Node] = match &self.kind {
            Kind::Seq(items) => items,
            Kind::Scalar(scalar) if scalar.is_null() => &[],
            Kind::Scalar(_) => std::slice::from_ref(self),
            Kind::Map(_) => {
                let fault: Fault = de::Error::invalid_type(de::Unexpected::Map, &visitor);
                return Err(fault.at(self.id));
            }
        };
        visitor
            .visit_seq(Items(items.iter()))
            .map_err(|fault| fault.at(self.id))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries: &[(Key, Node)] = match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Scalar(scalar) if scalar.is_null() => &[],
            Kind::Scalar(scalar) => {
                let fault: Fault =
                    de::Error::invalid_type(de::Unexpected::Str(&scalar.text), &visitor);
                return Err(self.fault(fault));
            }
            Kind::Seq(_) => {
                let fault: Fault = de::Error::invalid_type(de::Unexpected::Seq, &visitor);
                return Err(fault.at(self.id));
            }
        };
        visitor
            .visit_map(Entries {
                rest: entries.iter(),
                value: None,
            })
            .map_err(|fault| fault.at(self.id))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::Scalar(scalar) => visitor
                .visit_enum(scalar.text.as_str().into_deserializer())
                .map_err(|fault: Fault| self.fault(fault)),
            Kind::Seq(_) | Kind::Map(_) => Err(Fault::new("expected a name".into()).at(self.id)),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        self.0
            .next()
            .map(|node| seed.deserialize(node).map_err(|fault| node.fault(fault)))
            .transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(key.text.as_str().into_deserializer())
            .map(Some)
            .map_err(|fault: Fault| fault.at(key.id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let node = self
            .value
            .take()
            .expect("serde asks for a value only after its key");
        seed.deserialize(node).map_err(|fault| node.fault(fault))
    }
}
