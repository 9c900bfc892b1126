//! `trunkline config reference`: docs/configuration.md, made from the schema so that it cannot lag.

use std::collections::VecDeque;
use std::fmt::Write;

use serde_json::Value;

use crate::cli::OK;
use crate::config;

const HEAD: &str = "\
<!-- made by `trunkline config reference`: change the words in src/config/file and run `make schema` -->

# Configuration

One YAML file. `trunkline check-config` finds every mistake in it at once, `trunkline config show`
prints it with its defaults filled in, and editors that know JSON Schema complete it by
[conf/trunkline.schema.json](../conf/trunkline.schema.json).
[conf/trunkline.yaml](../conf/trunkline.yaml) is an example with every key in its place.

A duration has a unit (`250ms`, `5s`, `10m`), and `0s` is no limit; so has a size (`64KiB`, `25MiB`).
Where a list is taken, one value may stand alone. In patterns `*` is any run of characters. `${VAR}` is
an environment variable, `${VAR:-text}` falls back to a text, `${VAR:?why}` says why it must be set.
";

/// Prints it.
pub(crate) fn run() -> u8 {
    print!("{}", Reference::of(&config::schema()));
    OK
}

/// Writes a table for each object, in the order they are first named.
struct Reference<'a> {
    schema: &'a Value,
    /// Objects that were named, by their names in the schema.
    named: Vec<&'a str>,
    waiting: VecDeque<&'a str>,
    text: String,
}

impl<'a> Reference<'a> {
    fn of(schema: &'a Value) -> String {
        let mut reference = Reference {
            schema,
            named: Vec::new(),
            waiting: VecDeque::new(),
            text: HEAD.to_owned(),
        };
        reference.table("The file", schema);
        while let Some(name) = reference.waiting.pop_front() {
            let object = &schema["$defs"][name];
            reference.table(&title(name), object);
        }
        reference.text
    }

    fn table(&mut self, title: &str, object: &'a Value) {
        let about = prose(object);
        let _ = write!(self.text, "\n## {title}\n\n");
        if title != "The file" && !about.is_empty() {
            let _ = write!(self.text, "{about}\n\n");
        }
        self.text
            .push_str("| key | takes | |\n| --- | --- | --- |\n");
        let keys = object["properties"].as_object().into_iter().flatten();
        for (key, value) in keys {
            let takes = self.takes(value);
            let own = prose(value);
            let _ = writeln!(self.text, "| `{key}` | {takes} | {own} |");
        }
    }

    /// What a key takes, in words.
    fn takes(&mut self, value: &'a Value) -> String {
        if let Some(name) = value["$ref"].as_str() {
            return self.named(name.trim_start_matches("#/$defs/"));
        }
        if let Some(choices) = value["anyOf"].as_array().or(value["oneOf"].as_array()) {
            let words = choices
                .iter()
                .filter(|choice| choice["type"] != "null")
                .map(|choice| self.takes(choice));
            return words.collect::<Vec<_>>().join(" or ");
        }
        if let Some(words) = value["enum"].as_array() {
            return words.iter().map(code).collect::<Vec<_>>().join(", ");
        }
        if !value["const"].is_null() {
            return code(&value["const"]);
        }
        match type_of(value) {
            "array" => format!("list of {}", self.takes(&value["items"])),
            "object" if value["additionalProperties"].is_object() => {
                format!(
                    "map of names to {}",
                    self.takes(&value["additionalProperties"])
                )
            }
            "object" => "map".to_owned(),
            "string" => "text".to_owned(),
            "integer" => "number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            other => other.to_owned(),
        }
    }

    fn named(&mut self, name: &'a str) -> String {
        match name {
            "Duration" | "Size" => return name.to_lowercase(),
            "Percent" => return "share, as `20%`".to_owned(),
            "Fraction" => return "share, as `0.1%`".to_owned(),
            _ => {}
        }
        let definition = &self.schema["$defs"][name];
        if definition["properties"].is_null() {
            return self.takes(definition);
        }
        if !self.named.contains(&name) {
            self.named.push(name);
            self.waiting.push_back(name);
        }
        let title = title(name);
        format!("[{title}](#{})", title.to_lowercase().replace(' ', "-"))
    }
}

/// A name of the schema as a heading: `HashMapForm` is `Hash map form`.
fn title(name: &str) -> String {
    let mut title = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !title.is_empty() {
            title.push(' ');
            title.extend(c.to_lowercase());
        } else {
            title.push(c);
        }
    }
    title
}

fn code(value: &Value) -> String {
    match value.as_str() {
        Some(text) => format!("`{text}`"),
        None => format!("`{value}`"),
    }
}

/// The type, `null` left out.
fn type_of(value: &Value) -> &str {
    let named = value["type"].as_array().into_iter().flatten();
    let mut named = named.filter_map(Value::as_str).filter(|t| *t != "null");
    value["type"]
        .as_str()
        .or(named.next())
        .unwrap_or("anything")
}

/// The description on one line, as a cell of a table takes it.
fn prose(value: &Value) -> String {
    let text = value["description"].as_str().unwrap_or_default();
    text.replace('\n', " ").replace('|', "\\|")
}
