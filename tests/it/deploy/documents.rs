//! docs/: what is made is as it would be made now, and what is linked is there.

use std::process::Command;

use super::tools::{read, repository, succeeds};
use crate::support::gateway::BINARY;

#[test]
fn the_reference_of_the_configuration_is_that_of_the_schema() {
    let made = succeeds(Command::new(BINARY).args(["config", "reference"]));
    assert!(
        made == read("docs/configuration.md"),
        "docs/configuration.md is old: run `make schema`"
    );
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for file in [
        "docs/operating.md",
        "docs/configuration.md",
        "docs/migrating.md",
        "deploy/README.md",
    ] {
        let text = read(file);
        let folder = repository(file).parent().unwrap().to_owned();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => repository(file),
                path => folder.join(path),
            };
            assert!(path.exists(), "{file}: {target}");
            if !anchor.is_empty() {
                let linked = std::fs::read_to_string(&path).unwrap();
                let mut titles = linked.lines().filter(|line| line.starts_with('#'));
                assert!(
                    titles.any(|title| {
                        let title = title.trim_start_matches('#').trim().to_lowercase();
                        title.replace(' ', "-") == anchor
                    }),
                    "{file}: {target}"
                );
            }
        }
    }
}
