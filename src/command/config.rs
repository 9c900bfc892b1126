//! `trunkline config show` and `trunkline config schema`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::OK;
use crate::command::source;
use crate::config::jwt::{Jwks, Jwt};
use crate::config::pattern::Pattern;
use crate::config::{
    self, AccessLog, Admin, Cache, Config, Cors, Fields, Health, Hedge, HedgeAfter, Key,
    ListenerTls, Match, Memory, Names, Pool, Price, Quota, RetryOn, Route, RouteCache, Server,
    Timeouts, Tracing,
};
use crate::unit::Span;

/// Prints the JSON Schema of the file.
pub(crate) fn schema() -> u8 {
    println!(
        "{}",
        serde_json::to_string_pretty(&config::schema()).expect("a schema can be written")
    );
    OK
}

/// Prints the configuration in effect, in the form of the file, so that it can be read back.
pub(crate) fn show(asked: Option<&Path>) -> u8 {
    let none = "`trunkline` would serve what it finds on this machine";
    let (source, config) = match source::require(asked, none) {
        Ok(found) => found,
        Err(code) => return code,
    };
    println!("# {}, defaults filled in, secrets redacted", source.name);
    print!(
        "{}",
        serde_yaml::to_string(&effective(&config)).expect("a configuration can be written")
    );
    OK
}

fn span(duration: Option<std::time::Duration>) -> Value {
    duration.map_or("0s".into(), |d| Span(d).to_string().into())
}

fn patterns(list: &[Pattern]) -> Value {
    list.iter()
        .map(|pattern| Value::from(pattern.to_string()))
        .collect()
}

/// Leaves out what says nothing.
fn object(entries: Vec<(&str, Value)>) -> Value {
    let says_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let kept = entries
        .into_iter()
        .filter(|(_, value)| says_something(value));
    Value::Object(kept.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn listener_tls(tls: &ListenerTls) -> Value {
    let path = |path: &PathBuf| Value::from(path.display().to_string());
    object(vec![
        ("cert", path(&tls.files.cert)),
        ("key", path(&tls.files.key)),
        ("min_version", json!(tls.min_version)),
        ("client_ca", tls.files.client_ca.as_ref().map(path).into()),
    ])
}

fn admin(admin: &Admin) -> Value {
    let token = admin.token.as_ref().map(|_| "[redacted]");
    object(vec![
        ("address", admin.address.to_string().into()),
        ("token", token.into()),
        ("hosts", admin.hosts.clone().into()),
        ("tls", admin.tls.as_ref().map(listener_tls).into()),
    ])
}

fn key(key: &Key, tokens: bool) -> Value {
    let expires = key
        .expires
        .map(|end| humantime::format_rfc3339(end).to_string());
    object(vec![
        ("name", key.name.clone().into()),
        ("hash", key.hash.map(|hash| hash.to_string()).into()),
        ("subjects", tokens.then(|| json!(key.subjects)).into()),
        ("models", patterns(&key.models)),
        ("routes", key.routes.clone().into()),
        ("zone", json!(key.zone)),
        ("limits", quota(&key.limits)),
        ("budget", json!(key.budget)),
        ("expires", expires.into()),
    ])
}

fn jwt(jwt: &Jwt) -> Value {
    let (jwks, refresh) = match &jwt.jwks {
        Jwks::File(path, _) => (path.display().to_string(), None),
        Jwks::Url { url, refresh } => (url.to_string(), Some(span(Some(*refresh)))),
    };
    object(vec![
        ("jwks", jwks.into()),
        ("issuer", jwt.issuer.as_str().into()),
        ("audience", json!(jwt.audience)),
        ("claim", jwt.claim.as_str().into()),
        ("refresh", refresh.unwrap_or_default()),
        ("leeway", span(Some(jwt.leeway))),
    ])
}

fn prices(prices: &[(Pattern, Price)]) -> Value {
    let one = |(pattern, price): &(Pattern, Price)| {
        let price = json!({
            "request": price.request,
            "input": price.input,
            "output": price.output,
            "characters": price.characters,
            "audio_minute": price.audio_minute,
        });
        (pattern.to_string(), price)
    };
    Value::Object(prices.iter().map(one).collect())
}

fn quota(quota: &Quota) -> Value {
    object(vec![
        ("rpm", quota.requests.into()),
        ("tpm", quota.tokens.into()),
        ("concurrent", quota.concurrent.into()),
        ("characters", quota.characters.into()),
        ("audio_seconds", quota.audio_seconds.into()),
        ("bytes", quota.bytes.map(|n| format!("{n}B")).into()),
    ])
}

/// A configuration in the form of the file, with all defaults.
pub(super) fn effective(config: &Config) -> Value {
    let listeners = config.listeners.iter().map(|listener| {
        let cors = listener.cors.as_ref().map(|cors| match cors {
            Cors::Any => json!({ "origins": "*" }),
            Cors::Listed(origins) => json!({ "origins": origins }),
        });
        let tls = listener.tls.as_ref().map(listener_tls);
        object(vec![
            ("address", listener.address.to_string().into()),
            ("tls", tls.unwrap_or_default()),
            ("h2c", listener.h2c.then_some(true).into()),
            ("cors", cors.unwrap_or_default()),
        ])
    });
    let pools: Map<String, Value> = config
        .pools
        .iter()
        .map(|p| (p.name.clone(), pool(p)))
        .collect();
    let access = match &config.log.access {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::Stderr => "stderr".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    };
    let (rest, routes): (Vec<&Route>, Vec<&Route>) =
        (config.routes.iter()).partition(|route| route.conditions.unknown_model);
    let rest = rest
        .first()
        .map(|r| config.pool(r.targets[0].pool).name.as_str());
    let keys = config.keys.iter();
    object(vec![
        ("listeners", listeners.collect()),
        ("admin", config.admin.as_ref().map_or("off".into(), admin)),
        ("pools", pools.into()),
        (
            "routes",
            routes.into_iter().map(|r| route(config, r)).collect(),
        ),
        (
            "keys",
            keys.map(|one| key(one, config.jwt.is_some())).collect(),
        ),
        ("jwt", config.jwt.as_ref().map(jwt).unwrap_or_default()),
        ("prices", prices(&config.prices)),
        (
            "budgets",
            config
                .budget_file
                .as_ref()
                .map(|file| json!({ "file": file }))
                .into(),
        ),
        ("unknown_model", rest.into()),
        ("cache", kept(&config.cache)),
        ("affinity", affinity(config)),
        (
            "state",
            config.state.as_ref().map(state).unwrap_or_default(),
        ),
        (
            "sessions",
            json!({ "memory": size(Some(config.sessions.memory)) }),
        ),
        (
            "limits",
            json!({
                "connections": config.limits.connections,
                "connections_per_ip": config.limits.connections_per_ip.most,
                "header_timeout": span(config.limits.header_timeout),
                "body_timeout": span(config.limits.body_timeout),
                "min_rate": size(Some(config.limits.min_rate)),
                "max_headers": config.limits.head.fields,
                "max_header_size": size(Some(config.limits.head.bytes as u64)),
                "max_uri": size(Some(config.limits.head.uri as u64)),
                "per_ip": quota(&config.limits.per_ip),
            }),
        ),
        (
            "log",
            object(vec![
                ("level", json!(config.log.level)),
                ("format", json!(config.log.format)),
                ("access", access.into()),
            ]),
        ),
        (
            "shutdown",
            json!({ "drain": span(Some(config.shutdown.drain)), "grace": span(Some(config.shutdown.grace)) }),
        ),
        (
            "tracing",
            config.tracing.as_ref().map(tracing).unwrap_or_default(),
        ),
    ])
}

fn state(state: &config::State) -> Value {
    json!({
        "redis": "[redacted]",
        "prefix": state.prefix,
        "timeout": span(Some(state.timeout)),
    })
}

fn tracing(tracing: &Tracing) -> Value {
    let headers = tracing.headers.iter();
    let headers: Map<String, Value> = headers
        .map(|(name, _)| (name.to_string(), "[redacted]".into()))
        .collect();
    object(vec![
        ("otlp", tracing.endpoint.to_string().into()),
        ("sample", tracing.sample.to_string().into()),
        ("headers", headers.into()),
        ("service_name", tracing.service_name.as_str().into()),
    ])
}

fn pool(pool: &Pool) -> Value {
    let eject = pool.eject.map_or(json!(false), |eject| {
        object(vec![
            ("after", json!(eject.after)),
            ("for", span(Some(eject.duration))),
            ("max_percent", format!("{}%", eject.max_percent).into()),
            ("rate", format!("{}%", eject.rate.unwrap_or(0)).into()),
            ("window", span(Some(eject.window))),
            ("min_requests", json!(eject.min_requests)),
            ("slow", json!(eject.slow)),
        ])
    });
    let keepalive = pool.keepalive.map_or(
        json!(false),
        |keepalive| json!({ "idle": span(Some(keepalive.idle)), "requests": keepalive.requests }),
    );
    let listing = pool.listing.map_or(
        json!(false),
        |interval| json!({ "interval": span(Some(interval)) }),
    );
    let Timeouts {
        connect,
        first_byte,
        idle,
        total,
        tunnel,
    } = pool.timeouts;
    let headers = &pool.headers;
    // values of headers are as secret as keys: that is what people put there
    let set: Map<String, Value> = headers
        .set
        .iter()
        .map(|(name, _)| (name.to_string(), "[redacted]".into()))
        .collect();
    let remove: Vec<String> = headers.remove.iter().map(ToString::to_string).collect();
    let tls = object(vec![
        (
            "verify",
            if pool.tls.verify {
                Value::Null
            } else {
                json!(false)
            },
        ),
        ("sni", json!(pool.tls.sni)),
        ("ca_file", json!(pool.tls.files[0])),
        ("client_cert", json!(pool.tls.files[1])),
        ("client_key", json!(pool.tls.files[2])),
    ]);
    object(vec![
        ("kind", json!(pool.kind)),
        ("servers", pool.servers.iter().map(server).collect()),
        ("balance", json!(pool.balance)),
        ("health", health(pool)),
        ("eject", eject),
        (
            "timeouts",
            json!({ "connect": span(connect), "first_byte": span(first_byte), "idle": span(idle), "total": span(total), "tunnel": span(tunnel) }),
        ),
        ("keepalive", keepalive),
        ("list_models", listing),
        ("tls", tls),
        (
            "headers",
            object(vec![("set", set.into()), ("remove", json!(remove))]),
        ),
        ("models", names(&pool.models)),
        ("voices", names(&pool.voices)),
        ("queue", queue(pool)),
        ("warming", json!(pool.warming)),
        ("min_first_bytes", json!(pool.min_first_bytes)),
        ("zone", json!(pool.zone)),
        ("cost", json!(pool.cost)),
        ("max_body", size(pool.max_body)),
        ("limits", quota(&pool.limits)),
        ("http2", if pool.http2 { json!(true) } else { Value::Null }),
    ])
}

fn health(pool: &Pool) -> Value {
    match &pool.health {
        Health::Off => json!(false),
        Health::On {
            path,
            interval,
            timeout,
            rise,
            fall,
            expect,
        } => object(vec![
            ("path", json!(path)),
            (
                "tcp",
                if path.is_none() {
                    json!(true)
                } else {
                    Value::Null
                },
            ),
            ("interval", span(Some(*interval))),
            ("timeout", span(Some(*timeout))),
            ("rise", json!(rise)),
            ("fall", json!(fall)),
            ("expect", json!(expect)),
        ]),
    }
}

fn queue(pool: &Pool) -> Value {
    match pool.has_slots() {
        true => json!({ "size": pool.queue.size, "timeout": span(pool.queue.timeout) }),
        false => Value::Null,
    }
}

fn size(bytes: Option<u64>) -> Value {
    bytes.map_or(Value::Null, |n| format!("{n}B").into())
}

fn hedge(hedge: &Hedge) -> Value {
    let after = match hedge.after {
        HedgeAfter::P95 => "p95".to_owned(),
        HedgeAfter::Time(span) => span.to_string(),
    };
    json!({
        "after": after,
        "paid": hedge.paid,
        "max_characters": hedge.max_characters,
        "max_body": format!("{}B", hedge.max_body),
    })
}

fn kept(cache: &Cache) -> Value {
    let disk = cache.disk.as_ref().map(
        |disk| json!({ "path": disk.path.display().to_string(), "size": size(Some(disk.size)) }),
    );
    object(vec![
        ("memory", size(Some(cache.memory))),
        ("disk", disk.unwrap_or_default()),
    ])
}

fn affinity(config: &Config) -> Value {
    let secret = config.affinity_secret.as_ref();
    // long enough to be read back
    object(vec![("secret", secret.map(|_| "[redacted secret]").into())])
}

fn cache(cache: &RouteCache) -> Value {
    json!({
        "ttl": span(Some(cache.ttl)),
        "max_object": size(Some(cache.max_object)),
        "shared": cache.shared,
        "chat": cache.chat,
    })
}

fn memory(memory: &Memory) -> Value {
    json!({
        "by": memory.by.to_string(),
        "messages": memory.bounds.messages,
        "bytes": size(Some(memory.bounds.bytes)),
        "ttl": span(Some(memory.bounds.ttl)),
    })
}

fn server(server: &Server) -> Value {
    object(vec![
        ("url", server.url.to_string().into()),
        ("name", server.name.clone().into()),
        ("weight", server.weight.into()),
        ("slots", json!(server.slots)),
        ("auth", json!(server.auth)),
        (
            "api_key",
            server
                .key
                .as_ref()
                .map_or(Value::Null, |_| "[redacted]".into()),
        ),
        (
            "backup",
            if server.backup {
                true.into()
            } else {
                Value::Null
            },
        ),
    ])
}

fn names(names: &Names) -> Value {
    let mut map: Map<String, Value> = names
        .exact
        .iter()
        .map(|(k, v)| (k.clone(), v.clone().into()))
        .collect();
    if let Some(default) = &names.default {
        map.insert("*".into(), default.clone().into());
    }
    map.into()
}

fn conditions(conditions: &Match) -> Value {
    let Match {
        paths,
        methods,
        hosts,
        models,
        voices,
        headers,
        body_larger_than,
        unknown_model: _,
    } = conditions;
    let headers: Map<String, Value> = headers
        .iter()
        .map(|(name, p)| (name.to_string(), patterns(p)))
        .collect();
    let methods: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
    object(vec![
        ("path", patterns(paths)),
        ("method", json!(methods)),
        ("host", patterns(hosts)),
        ("model", patterns(models)),
        ("voice", patterns(voices)),
        ("headers", headers.into()),
        ("body_larger_than", size(*body_larger_than)),
    ])
}

fn retry(retry: &config::Retry) -> Value {
    let on: Vec<Value> = retry
        .on
        .iter()
        .map(|on| match on {
            RetryOn::Connect => "connect".into(),
            RetryOn::Reset => "reset".into(),
            RetryOn::Timeout => "timeout".into(),
            RetryOn::Status(status) => (*status).into(),
        })
        .collect();
    let mut told = object(vec![
        ("attempts", retry.attempts.into()),
        ("per_try_timeout", span(retry.per_try_timeout)),
        (
            "budget",
            retry.budget.map_or(Value::Null, |b| format!("{b}%").into()),
        ),
        ("backoff", span(Some(retry.backoff))),
    ]);
    // an empty list says something here: never
    told["on"] = on.into();
    told
}

fn route(config: &Config, route: &Route) -> Value {
    let fields = |fields: &Fields| {
        let Fields {
            set,
            default,
            remove,
            prompt: _,
        } = fields;
        (json!(set), json!(default), json!(remove))
    };
    let name = |target: &config::Target| Value::from(config.pool(target.pool).name.clone());
    let long = |target: &config::Target, more: Option<(&'static str, Value)>| {
        let (set, default, remove) = fields(&target.fields);
        let mut members = vec![("pool", name(target))];
        members.extend(more);
        members.extend([("set", set), ("default", default), ("remove", remove)]);
        object(members)
    };
    let shared = route.split.len();
    let split = route.split.iter().zip(&route.targets);
    let split = split.map(|(weight, target)| long(target, Some(("weight", (*weight).into()))));
    let fallback = route.targets.iter().skip(shared.max(1));
    let fallback = fallback.map(|target| long(target, None));
    let mirror = route.mirror.as_ref().map(|mirror| {
        let target = &mirror.route.targets[0];
        let share = format!("{}%", (mirror.share * 100.0).round());
        let mut told = long(target, Some(("share", share.into())));
        if config.pool(target.pool).cost == config::Cost::Paid {
            told["paid"] = true.into();
        }
        told
    });
    let first = route.targets.first();
    let prompt = first.and_then(|target| target.fields.prompt.as_ref());
    let prompt = prompt.map(|prompt| prompt.file.display().to_string());
    // where several share the requests each has its own
    let (set, default, remove) = first
        .filter(|_| shared == 0)
        .map(|target| fields(&target.fields))
        .unwrap_or_default();
    object(vec![
        ("name", route.name.clone().into()),
        ("match", conditions(&route.conditions)),
        (
            "pool",
            first.filter(|_| shared == 0).map(name).unwrap_or_default(),
        ),
        ("split", split.collect()),
        ("mirror", mirror.unwrap_or_default()),
        ("set", set),
        ("default", default),
        ("remove", remove),
        ("system_prompt_file", prompt.into()),
        ("fallback", fallback.collect()),
        ("retry", retry(&route.retry)),
        ("max_body", size(Some(route.max_body))),
        ("limits", quota(&route.limits)),
        ("priority", json!(route.priority)),
        ("zone", json!(route.zone)),
        ("hedge", route.hedge.as_ref().map_or(Value::Null, hedge)),
        ("cache", route.cache.as_ref().map_or(Value::Null, cache)),
        ("memory", route.memory.as_ref().map_or(Value::Null, memory)),
        ("affinity", (!route.affinity).then_some(false).into()),
    ])
}
