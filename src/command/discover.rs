//! `trunkline discover`: looks for boxes and prints the configuration for them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{FAILED, OK, Output};
use crate::service::ask;
use crate::service::discover::{self, Found, Group, PORTS, Place, Role};
use crate::unit::Span;

const HELP: &str = "\
Asked are the usual ports: 8880 Kokoro, 2022 and 8080 whisper.cpp and llama.cpp,
11434 Ollama, 8000 vLLM and speaches, 1234 LM Studio, 4000 LiteLLM. Nothing that
is asked costs a token.

Examples:
  trunkline discover > trunkline.yaml
  trunkline discover --host localhost --host gpu-a --host gpu-b:9000

Exit codes: 0 something was found, 1 nothing was, 2 usage.";

/// What `discover` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Look here, on the usual ports or on one; may come several times. Default: this machine.
    #[arg(long = "host", value_name = "HOST[:PORT]")]
    hosts: Vec<String>,
    /// How long a box may take to answer one question.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    timeout: Span,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    format: Output,
}

/// What was found, in pools.
struct Boxes {
    groups: Vec<Group>,
    /// Of each group, as far as it tells.
    models: Vec<Vec<String>>,
    missing: Vec<Role>,
}

/// Looks; says with which code to exit.
pub(crate) fn run(options: &Options) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let looked = match runtime {
        Ok(runtime) => runtime.block_on(look(options)),
        Err(error) => Err(error.to_string()),
    };
    let boxes = match looked {
        Ok(boxes) => boxes,
        Err(message) => {
            eprintln!("trunkline: {message}");
            return FAILED;
        }
    };
    tell(&boxes);
    let found = !boxes.groups.is_empty();
    match options.format {
        Output::Json => println!("{:#}", as_json(&boxes)),
        Output::Text if found => print!("{}", configuration(&boxes)),
        Output::Text => {}
    }
    match found {
        true => OK,
        false => FAILED,
    }
}

async fn look(options: &Options) -> Result<Boxes, String> {
    let mut places = Vec::new();
    let here = ["127.0.0.1".to_owned()];
    let hosts = match options.hosts.as_slice() {
        [] => &here[..],
        hosts => hosts,
    };
    for named in hosts {
        match addresses(named).await {
            Ok(found) => places.extend(found),
            // the others may be there
            Err(message) if hosts.len() > 1 => eprintln!("trunkline: {message}"),
            Err(message) => return Err(message),
        }
    }
    let limit = options.timeout.0;
    let found = discover::look(places.clone(), limit).await;
    let groups = discover::groups(&found);
    let mut models = vec![Vec::new(); groups.len()];
    for (group, models) in groups.iter().zip(&mut models) {
        for f in found
            .iter()
            .filter(|f| (f.pool, f.kind) == (group.pool, group.kind))
        {
            for name in names(f, &places, limit).await {
                if !models.contains(&name) {
                    models.push(name);
                }
            }
        }
    }
    Ok(Boxes {
        groups,
        models,
        missing: discover::missing(&found),
    })
}

/// `HOST`, `HOST:PORT` or a URL.
async fn addresses(named: &str) -> Result<Vec<Place>, String> {
    let bare = named.trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1");
    let (host, port) = match bare.rsplit_once(':') {
        // more than one colon without brackets is an IPv6 address
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            let parsed = port.parse::<u16>();
            let wrong = |_| format!("`{named}`: `{port}` is no port");
            (host, Some(parsed.map_err(wrong)?))
        }
        _ => (bare, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let looked_up = tokio::net::lookup_host((host, 0)).await;
    let address = looked_up.ok().and_then(|mut all| all.next());
    let address = address.ok_or_else(|| format!("the host `{host}` is not known"))?;
    let ports = port.map_or(PORTS.to_vec(), |port| vec![port]);
    let place = |port| Place {
        host: host.to_owned(),
        address: SocketAddr::new(address.ip(), port),
    };
    Ok(ports.into_iter().map(place).collect())
}

/// What a chat box can be asked for.
async fn names(found: &Found, places: &[Place], limit: Duration) -> Vec<String> {
    let here = |p: &&Place| p.host == found.host && p.address.port() == found.port;
    let Some(place) = places.iter().find(here) else {
        return Vec::new();
    };
    let chats = found.roles.contains(&Role::Chat);
    let answer = match chats {
        true => ask::get(place.address, "/v1/models", limit).await,
        false => None,
    };
    let body = answer.map(|(_, body)| body).unwrap_or_default();
    super::models_in(body.as_bytes())
}

/// Says what was found, on stderr.
fn tell(boxes: &Boxes) {
    for (group, models) in boxes.groups.iter().zip(&boxes.models) {
        let models = match models.len() {
            0 => String::new(),
            1 => ", 1 model".to_owned(),
            n => format!(", {n} models"),
        };
        for url in &group.urls {
            let roles = roles(group.roles);
            eprintln!("found  {:<12} {url}  ({roles}{models})", group.pool);
        }
    }
    for role in &boxes.missing {
        eprintln!("none   for {}: {}", role.word(), advice(*role));
    }
}

fn roles(roles: &[Role]) -> String {
    let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
    words.join(", ")
}

fn advice(role: Role) -> &'static str {
    match role {
        Role::Speech => "Kokoro-FastAPI on 8880 would be found",
        Role::Transcription => "whisper.cpp's server on 2022 or 8080 would be found",
        Role::Chat => "Ollama on 11434, llama.cpp on 8080 or vLLM on 8000 would be found",
    }
}

fn as_json(boxes: &Boxes) -> Value {
    let found: Vec<Value> = boxes
        .groups
        .iter()
        .zip(&boxes.models)
        .map(|(group, models)| {
            let roles: Vec<&str> = group.roles.iter().map(|role| role.word()).collect();
            json!({
                "pool": group.pool, "kind": group.kind, "roles": roles,
                "servers": group.urls, "models": models,
            })
        })
        .collect();
    let missing: Vec<&str> = boxes.missing.iter().map(|role| role.word()).collect();
    let text = (!found.is_empty()).then(|| configuration(boxes));
    json!({ "found": found, "missing": missing, "configuration": text })
}

const HEAD: &str = "\
# Made by `trunkline discover`. Check it with `trunkline check-config`, serve it with `trunkline run`.

# where tools connect: export OPENAI_BASE_URL=http://127.0.0.1:2020/v1
listen: 127.0.0.1:2020
# for you: status page, /metrics, /status
admin: 127.0.0.1:2021

pools:
";

const CLOUD: &str = "
  # What is not here may come from the cloud, for money. Then add `fallback: [openai]` to routes.
  # openai:
  #   kind: openai
  #   servers: [\"https://api.openai.com/v1\"]
  #   api_key: \"${OPENAI_API_KEY}\"
";

/// A file to start from.
fn configuration(boxes: &Boxes) -> String {
    let mut text = HEAD.to_owned();
    for (group, models) in boxes.groups.iter().zip(&boxes.models) {
        let _ = writeln!(text, "  # {}", roles(group.roles));
        let _ = writeln!(text, "  {}:", group.pool);
        if let Some(kind) = group.kind {
            let _ = writeln!(text, "    kind: {kind}");
        }
        for line in group.settings {
            let _ = writeln!(text, "    {line}");
        }
        let urls: Vec<String> = group.urls.iter().map(|url| format!("\"{url}\"")).collect();
        let _ = writeln!(text, "    servers: [{}]", urls.join(", "));
        if !models.is_empty() {
            let _ = writeln!(text, "    # it has: {}", printed(models));
        }
    }
    text.push_str(CLOUD);
    text.push_str("\n# The first route that matches wins; `fallback` pools are tried when a pool fails.\nroutes:\n");
    for (role, path) in [
        (Role::Speech, "[/v1/audio/speech, /v1/audio/voices]"),
        (
            Role::Transcription,
            "[/v1/audio/transcriptions, /v1/audio/translations]",
        ),
    ] {
        let able: Vec<&str> = able(boxes, role).map(|(group, _)| group.pool).collect();
        if let Some((first, rest)) = able.split_first() {
            route(
                &mut text,
                role.word(),
                &format!("path: {path}"),
                first,
                rest,
            );
        }
    }
    chat(&mut text, boxes);
    for role in &boxes.missing {
        let _ = writeln!(
            text,
            "  # nothing was found for {}: {}",
            role.word(),
            advice(*role)
        );
    }
    text
}

/// Boxes with different models are no stand-ins for each other: the name decides, and the first
/// one gets the rest.
fn chat(text: &mut String, boxes: &Boxes) {
    let able: Vec<_> = able(boxes, Role::Chat).collect();
    if able.len() > 1 {
        for (group, models) in able.iter().filter(|(_, models)| !models.is_empty()) {
            let names = models.iter().map(|name| quoted(name));
            let names = names.collect::<Vec<_>>().join(", ");
            let path = "path: \"/v1/*\"";
            let matched = format!("{path}, model: [{names}]");
            route(
                text,
                &format!("chat-{}", group.pool),
                &matched,
                group.pool,
                &[],
            );
        }
    }
    if let Some((first, _)) = able.first() {
        route(text, "chat", "path: \"/v1/*\"", first.pool, &[]);
    }
}

fn able(boxes: &Boxes, role: Role) -> impl Iterator<Item = (&Group, &Vec<String>)> {
    let all = boxes.groups.iter().zip(&boxes.models);
    all.filter(move |(group, _)| group.roles.contains(&role))
}

fn route(text: &mut String, name: &str, matched: &str, pool: &str, fallback: &[&str]) {
    let _ = writeln!(
        text,
        "  - name: {name}\n    match: {{ {matched} }}\n    pool: {pool}"
    );
    if !fallback.is_empty() {
        let _ = writeln!(text, "    fallback: [{}]", fallback.join(", "));
    }
}

/// A name of somebody else's, in YAML.
fn quoted(name: &str) -> String {
    // a pattern would be more than this name, a variable none at all
    Value::from(name.replace("${", "$${")).to_string()
}

fn printed(models: &[String]) -> String {
    let shown: Vec<String> = models
        .iter()
        .take(8)
        .map(|m| crate::unit::printable(m))
        .collect();
    let more = match models.len().saturating_sub(8) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{}{more}", shown.join(", "))
}
