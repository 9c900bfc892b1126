use super::*;

fn line(text: &str) -> Line {
    Line {
        number: 1,
        words: text.split_whitespace().map(str::to_owned).collect(),
    }
}

fn said(acls: &[&str], rule: &str) -> Result<Vec<String>, String> {
    let mut known = Acls::default();
    for text in acls {
        let line = line(text);
        match line.word(0) {
            "acl" => known.define(&line),
            _ => known.variable(&line),
        }
    }
    let conditions = known.conditions(&line(rule).words)?;
    let shown = conditions.iter().map(|Conjunction(map)| {
        let pairs = map
            .0
            .iter()
            .map(|(key, value)| format!("{key} {}", show(value)));
        pairs.collect::<Vec<_>>().join("; ")
    });
    Ok(shown.collect())
}

fn show(value: &Yaml) -> String {
    match value {
        Yaml::Text(text) | Yaml::Plain(text) | Yaml::Variable(text) => text.clone(),
        Yaml::List(all) => all.iter().map(show).collect::<Vec<_>>().join(" "),
        Yaml::Map(map) => {
            let pairs = map
                .0
                .iter()
                .map(|(key, value)| format!("{key}: {}", show(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
    }
}

const PATHS: &[&str] = &[
    "acl speech path_beg /v1/audio/speech /v1/audio/voices",
    "acl speech path /tts",
    "acl v1 path_beg /v1",
    "acl chat path -i -m beg /v1/chat",
    "acl ours hdr(host) -i llm.example.com",
    "acl gold req.hdr(x-tier) gold",
    "acl tagged hdr(x-tag) -m found",
    "acl audio path_reg ^/v1/audio/.*$",
    "acl odd path_reg ^/(?!v1)",
    "acl local src 10.0.0.0/8",
];

#[test]
fn what_can_be_said_is_said() {
    for (rule, expected) in [
        ("", &[""][..]),
        (
            "if speech",
            &["path /v1/audio/speech* /v1/audio/voices* /tts"],
        ),
        ("if chat ours", &["path /v1/chat*; host llm.example.com"]),
        (
            "if chat or ours",
            &["path /v1/chat*", "host llm.example.com"],
        ),
        (
            "if chat || speech",
            &["path /v1/chat* /v1/audio/speech* /v1/audio/voices* /tts"],
        ),
        ("if v1 chat", &["path /v1/chat*"]),
        ("if gold tagged", &["headers x-tier: gold, x-tag: *"]),
        (
            "if { path_end .wav } METH_POST",
            &["path *.wav; method POST"],
        ),
        ("if audio", &["path /v1/audio/*"]),
        (
            "if chat gold or chat tagged",
            &[
                "path /v1/chat*; headers x-tier: gold",
                "path /v1/chat*; headers x-tag: *",
            ],
        ),
    ] {
        assert_eq!(
            said(PATHS, rule).as_deref(),
            Ok(expected)
                .map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
                .as_deref(),
            "{rule}"
        );
    }
}

#[test]
fn what_cannot_be_said_is_refused_with_a_reason() {
    for (rule, reason) in [
        ("if !v1", "not what is not"),
        ("unless v1", "not what is not"),
        ("if odd", "more than a pattern"),
        ("if local", "`src` is nothing"),
        ("if nobody", "not known"),
        ("if speech chat", "at once"),
        ("if { path -f paths.lst }", "from a file"),
        ("if { nbsrv(kokoro) lt 1 }", "`nbsrv(kokoro)` is nothing"),
    ] {
        let why = said(PATHS, rule).expect_err(rule);
        assert!(why.contains(reason), "{rule}: {why}");
    }
}

#[test]
fn a_model_in_the_body_decides() {
    let acls = [
        "http-request set-var(txn.model) req.body,json_query('$.model')",
        "acl llama var(txn.model) -m beg llama",
        "acl gpt req.body,json_query('$.model') gpt-4o gpt-4o-mini",
    ];
    assert_eq!(said(&acls, "if llama"), Ok(vec!["model llama*".to_owned()]));
    assert_eq!(
        said(&acls, "if gpt"),
        Ok(vec!["model gpt-4o gpt-4o-mini".to_owned()])
    );
}
