//! What a route does to the fields of a body: what it sets, adds, takes out and says first.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

use super::super::file;
use super::super::tree;
use super::super::{Fields, SystemPrompt};
use super::Resolver;
use crate::unit::Size;

/// Largest system prompt.
const LONGEST_PROMPT: Size = Size(256 * 1024);

impl Resolver<'_> {
    /// The fields of a route's first pool.
    pub(super) fn route_fields(&mut self, here: &tree::Path, route: &file::Route) -> Fields {
        let file = route.system_prompt_file.as_ref();
        let prompt = file.and_then(|file| self.system_prompt(here, file));
        let none = Fields {
            prompt,
            ..Fields::default()
        };
        self.fields_on(here, &none, (&route.set, &route.default, &route.remove.0))
    }

    /// Those of one of its pools, which stand on the route's: what is written there wins.
    pub(super) fn fields_on(
        &mut self,
        here: &tree::Path,
        below: &Fields,
        (set, default, remove): (
            &BTreeMap<String, Value>,
            &BTreeMap<String, Value>,
            &Vec<String>,
        ),
    ) -> Fields {
        let mut fields = below.clone();
        let added = |name: &str| set.contains_key(name) || default.contains_key(name);
        for (n, name) in remove.iter().enumerate() {
            if added(name) {
                let message = format!("`{name}` is set here too; it is one or the other");
                self.error(here.then("remove").then(n), message);
            }
            fields.set.remove(name);
            fields.default.remove(name);
        }
        fields.remove.retain(|name| !added(name));
        fields.remove.extend(remove.iter().cloned());
        fields.set.extend(set.clone());
        fields.default.extend(default.clone());
        fields
    }

    fn system_prompt(&mut self, here: &tree::Path, file: &str) -> Option<SystemPrompt> {
        let here = here.then("system_prompt_file");
        let path = self.folder.join(file);
        self.files.push(path.clone());
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(LONGEST_PROMPT.0 + 1).read_to_end(&mut bytes));
        let text = match read {
            Err(error) => Err(format!("`{file}` cannot be read: {error}")),
            Ok(_) if bytes.len() as u64 > LONGEST_PROMPT.0 => {
                Err(format!("`{file}` is larger than {LONGEST_PROMPT}"))
            }
            Ok(_) => String::from_utf8(bytes).map_err(|_| format!("`{file}` is not UTF-8 text")),
        };
        let text = self.check(here.clone(), text)?;
        if text.trim().is_empty() {
            self.error(here, format!("`{file}` is empty"));
            return None;
        }
        Some(SystemPrompt::new(path, text.trim()))
    }
}
