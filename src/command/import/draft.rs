//! A configuration in the making: what the readers of other programs' files fill in.

/// Everything that is carried over, and what is not.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
    pub(super) routes: Vec<Route>,
    /// Keys of clients.
    pub(super) keys: Vec<Yaml>,
    /// Keys of `limits`.
    pub(super) limits: Map,
    /// What could not be carried over, and what is different now.
    pub(super) warnings: Vec<String>,
    /// What the reader has to do before the file works.
    pub(super) todos: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: String,
    /// Files of certificate and key.
    pub(super) tls: Option<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) comment: Option<String>,
    pub(super) kind: Option<&'static str>,
    pub(super) servers: Vec<Server>,
    /// Its other keys, in the order they are written.
    pub(super) settings: Map,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) url: Yaml,
    pub(super) settings: Map,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Route {
    pub(super) name: Option<String>,
    pub(super) comment: Option<String>,
    /// The conditions.
    pub(super) conditions: Map,
    pub(super) pool: String,
    pub(super) fallback: Vec<Yaml>,
    /// Its other keys.
    pub(super) settings: Map,
}

/// A value as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Yaml {
    /// A text of somebody else's; quoted where it must be, and never a reference.
    Text(String),
    /// A number, a duration, a word of ours.
    Plain(String),
    /// `${NAME}`.
    Variable(String),
    List(Vec<Yaml>),
    Map(Map),
}

/// Keys in the order they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Map(pub(super) Vec<(String, Yaml)>);

impl Yaml {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Yaml::Text(text.into())
    }

    pub(super) fn plain(word: impl ToString) -> Self {
        Yaml::Plain(word.to_string())
    }

    /// One text, or a list of several.
    pub(super) fn texts(texts: &[String]) -> Self {
        match texts {
            [one] => Yaml::text(one),
            all => Yaml::List(all.iter().map(Yaml::text).collect()),
        }
    }
}

impl Map {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        self.0
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value)
    }

    /// Sets a key, in the place it had before.
    pub(super) fn set(&mut self, key: &str, value: Yaml) {
        match self.0.iter_mut().find(|(own, _)| own == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Sets all keys of another one, those of maps within too.
    pub(super) fn merge(&mut self, other: Map) {
        for (key, value) in other.0 {
            match value {
                Yaml::Map(map) => {
                    for (inner, value) in map.0 {
                        self.set_in(&key, &inner, value);
                    }
                }
                value => self.set(&key, value),
            }
        }
    }

    /// Sets a key of a map within.
    pub(super) fn set_in(&mut self, outer: &str, key: &str, value: Yaml) {
        let mut inner = match self.get(outer) {
            Some(Yaml::Map(map)) => map.clone(),
            _ => Map::default(),
        };
        inner.set(key, value);
        self.set(outer, Yaml::Map(inner));
    }
}

impl FromIterator<(String, Yaml)> for Map {
    fn from_iter<I: IntoIterator<Item = (String, Yaml)>>(pairs: I) -> Self {
        Map(pairs.into_iter().collect())
    }
}

impl Draft {
    /// Notes it once.
    pub(super) fn warn(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.warnings.contains(&message) {
            self.warnings.push(message);
        }
    }

    pub(super) fn todo(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.todos.contains(&message) {
            self.todos.push(message);
        }
    }

    /// A name for a pool that no other has.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        let wanted = name(wanted);
        let taken = |name: &str| self.pools.iter().any(|pool| pool.name == name);
        if !taken(&wanted) {
            return wanted;
        }
        let numbered = (2..).map(|n| format!("{wanted}-{n}"));
        let mut free = numbered.filter(|name| !taken(name));
        free.next().expect("numbers do not end")
    }
}

/// A name made of what names may hold.
pub(super) fn name(text: &str) -> String {
    let kept = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
        _ => '-',
    };
    let name: String = text.chars().map(kept).collect();
    match name.trim_matches('-') {
        "" => "pool".to_owned(),
        name => name.to_owned(),
    }
}

/// The variable for a key that stood in the file.
pub(super) fn variable(of: &str) -> String {
    let word: String = name(of).to_ascii_uppercase();
    let word: String = word
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    match word.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("KEY_{word}_API_KEY"),
        false => format!("{word}_API_KEY"),
    }
}
