//! Options: `--name value` and `--flag`, each asked for once, and none left over.

use std::collections::VecDeque;
use std::str::FromStr;

pub(crate) struct Args(VecDeque<String>);

impl Args {
    pub(crate) fn new(all: impl Iterator<Item = String>) -> Self {
        Args(all.collect())
    }

    pub(crate) fn command(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// The value of `--name`, if it is there.
    pub(crate) fn find<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let flag = format!("--{name}");
        let Some(at) = self.0.iter().position(|word| *word == flag) else {
            return Ok(None);
        };
        self.0.remove(at);
        let value = self
            .0
            .remove(at)
            .ok_or_else(|| format!("{flag} needs a value"))?;
        value
            .parse()
            .map(Some)
            .map_err(|_| format!("{flag} cannot be `{value}`"))
    }

    pub(crate) fn get<T: FromStr>(&mut self, name: &str, otherwise: T) -> Result<T, String> {
        Ok(self.find(name)?.unwrap_or(otherwise))
    }

    pub(crate) fn need<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.find(name)?
            .ok_or_else(|| format!("--{name} is needed"))
    }

    /// Every value of `--name`, which may be there more than once.
    pub(crate) fn all(&mut self, name: &str) -> Result<Vec<String>, String> {
        std::iter::from_fn(|| self.find(name).transpose()).collect()
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let flag = format!("--{name}");
        let at = self.0.iter().position(|word| *word == flag);
        at.is_some_and(|at| self.0.remove(at).is_some())
    }

    pub(crate) fn end(self) -> Result<(), String> {
        match self.0.front() {
            Some(word) => Err(format!("`{word}` is not known here")),
            None => Ok(()),
        }
    }
}
