//! What LiteLLM says besides its models: of the router, of itself, in general.

use serde_yaml::Value;

use super::super::draft::{Draft, Map, Pool, Yaml};

/// What LiteLLM itself reads the master key from.
const MASTER_KEY: &str = "LITELLM_MASTER_KEY";

/// What of it holds for every pool or route.
#[derive(Default)]
pub(super) struct Settings {
    balance: Option<&'static str>,
    eject: Map,
    timeouts: Map,
    attempts: Option<u64>,
    fallbacks: Vec<(String, Vec<String>)>,
    default_fallbacks: Vec<String>,
    /// Other names, and the models they mean.
    aliases: Vec<(String, String)>,
}

impl Settings {
    pub(super) fn read(file: &Value, draft: &mut Draft) -> Self {
        let mut settings = Settings::default();
        for section in ["litellm_settings", "router_settings"] {
            for (name, value) in pairs(file.get(section)) {
                settings.one(section, &name, value, draft);
            }
        }
        for (name, value) in pairs(file.get("general_settings")) {
            general(&name, value, draft);
        }
        let variables: Vec<String> = pairs(file.get("environment_variables"))
            .map(|(name, _)| name)
            .collect();
        if !variables.is_empty() {
            draft.todo(format!(
                "`environment_variables` stay where they are, in the environment: {}",
                variables.join(", ")
            ));
        }
        const KNOWN: &[&str] = &[
            "model_list",
            "litellm_settings",
            "router_settings",
            "general_settings",
            "environment_variables",
        ];
        for (name, _) in pairs(Some(file)).filter(|(name, _)| !KNOWN.contains(&name.as_str())) {
            draft.warn(match name.as_str() {
                "include" => {
                    "`include`: import the other files too, and put them together".to_owned()
                }
                name => format!("`{name}` has no counterpart"),
            });
        }
        settings
    }

    fn one(&mut self, section: &str, name: &str, value: &Value, draft: &mut Draft) {
        let mut limit = |key: &str| match duration(value) {
            Some(time) => self.timeouts.set(key, Yaml::plain(time)),
            None => draft.warn(format!("`{section}.{name}` is no time")),
        };
        match name {
            "routing_strategy" => self.balance = Some(balance(value.as_str(), draft)),
            "num_retries" => self.attempts = value.as_u64().map(|n| n + 1),
            "allowed_fails" => {
                if let Some(n) = value.as_u64() {
                    self.eject.set("after", Yaml::plain(n.max(1)));
                }
            }
            "cooldown_time" => {
                if let Some(time) = duration(value) {
                    self.eject.set("for", Yaml::plain(time));
                }
            }
            "timeout" | "request_timeout" => limit("total"),
            "stream_timeout" => limit("first_byte"),
            "fallbacks" => self.fallbacks.extend(lists(value)),
            "default_fallbacks" => self.default_fallbacks.extend(strings(value)),
            "model_group_alias" => {
                let aliases = pairs(Some(value)).filter_map(|(alias, model)| {
                    let model = model.as_str().or_else(|| model.get("model")?.as_str())?;
                    Some((alias, model.to_owned()))
                });
                self.aliases.extend(aliases);
            }
            // how it is here, or nothing that requests notice
            "drop_params"
            | "set_verbose"
            | "debug_level"
            | "json_logs"
            | "telemetry"
            | "enable_pre_call_checks"
            | "turn_off_message_logging"
            | "suppress_debug_info" => {}
            "callbacks" | "success_callback" | "failure_callback" => {
                let others: Vec<String> = strings(value).filter(|c| c != "prometheus").collect();
                if !others.is_empty() {
                    let others = others.join(", ");
                    draft.warn(format!(
                        "`{section}.{name}`: {others}; here are metrics and an access log"
                    ));
                }
            }
            "content_policy_fallbacks" | "context_window_fallbacks" => {
                draft.warn(format!(
                    "`{section}.{name}`: answers are not read for why they failed"
                ));
            }
            _ if matches!(value, Value::Bool(false) | Value::Null) => {}
            _ => draft.warn(format!("`{section}.{name}` has no counterpart")),
        }
    }

    /// What every pool gets.
    pub(super) fn of_pool(&self, pool: &mut Pool) {
        if let Some(balance) = self.balance.filter(|_| pool.servers.len() > 1) {
            pool.settings.set("balance", Yaml::plain(balance));
        }
        if !self.eject.is_empty() {
            pool.settings.set("eject", Yaml::Map(self.eject.clone()));
        }
        for (key, value) in &self.timeouts.0 {
            let own = match pool.settings.get("timeouts") {
                Some(Yaml::Map(own)) => own.get(key).is_some(),
                _ => false,
            };
            if !own {
                pool.settings.set_in("timeouts", key, value.clone());
            }
        }
    }

    pub(super) fn of_route(&self) -> Map {
        let mut settings = Map::default();
        if let Some(attempts) = self.attempts {
            settings.set_in("retry", "attempts", Yaml::plain(attempts));
        }
        settings
    }

    /// The models that are asked instead of one.
    pub(super) fn fallbacks(&self, model: &str) -> Vec<String> {
        let named = |wanted: &str| {
            let mut all = self.fallbacks.iter();
            all.find(|(name, _)| name == wanted)
                .map(|(_, to)| to.clone())
        };
        let found = named(model).or_else(|| named("*"));
        let mut found = found.unwrap_or_else(|| self.default_fallbacks.clone());
        found.retain(|name| name != model);
        found
    }

    pub(super) fn aliases(&self, model: &str) -> Vec<String> {
        let own = self.aliases.iter().filter(|(_, of)| of == model);
        own.map(|(alias, _)| alias.clone()).collect()
    }
}

fn balance(strategy: Option<&str>, draft: &mut Draft) -> &'static str {
    let (rule, told) = match strategy.unwrap_or_default() {
        "simple-shuffle" => ("random", false),
        "least-busy" => ("least_in_flight", false),
        "latency-based-routing" => ("power_of_two", true),
        "usage-based-routing" | "usage-based-routing-v2" => ("least_in_flight", true),
        _ => ("random", true),
    };
    if told {
        let strategy = strategy.unwrap_or_default();
        draft.warn(format!(
            "`routing_strategy: {strategy}` has no counterpart; `balance: {rule}` comes nearest"
        ));
    }
    rule
}

/// Who had to show a key shows it still.
fn master_key(value: &Value, draft: &mut Draft) {
    let Some(key) = value.as_str().filter(|key| !key.is_empty()) else {
        return;
    };
    let variable = key.strip_prefix("os.environ/").unwrap_or_else(|| {
        draft.todo(format!(
            "the master key stood in the file and is not printed: put it into the environment as \
             {MASTER_KEY}, or give it as `key_file`"
        ));
        MASTER_KEY
    });
    let mut key = Map::default();
    key.set("name", Yaml::plain("master"));
    key.set("key", Yaml::Variable(variable.to_owned()));
    draft.keys.push(Yaml::Map(key));
}

fn general(name: &str, value: &Value, draft: &mut Draft) {
    let message = match name {
        "master_key" => return master_key(value, draft),
        "database_url" | "store_model_in_db" | "database_connection_pool_limit" => format!(
            "`general_settings.{name}`: there is no database, and no virtual keys or budgets with \
             it; `trunkline key new` makes a key for each client"
        ),
        "completion_model" => return,
        _ if matches!(value, Value::Bool(false) | Value::Null) => return,
        _ => format!("`general_settings.{name}` has no counterpart"),
    };
    draft.warn(message);
}

fn pairs(value: Option<&Value>) -> impl Iterator<Item = (String, &Value)> {
    let map = value.and_then(Value::as_mapping);
    let pairs = map.into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)))
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    let many = value.as_sequence().into_iter().flatten();
    let one = value.as_str().map(str::to_owned);
    let many = many.filter_map(|one| one.as_str().map(str::to_owned));
    many.chain(one)
}

/// `[{ a: [b, c] }, …]`, or a map of such.
fn lists(value: &Value) -> Vec<(String, Vec<String>)> {
    let maps = value.as_sequence().into_iter().flatten().chain([value]);
    let all = maps.flat_map(|map| pairs(Some(map)));
    all.map(|(name, to)| (name, strings(to).collect()))
        .collect()
}

/// Seconds, as a duration of ours; 0 is none.
pub(super) fn duration(value: &Value) -> Option<String> {
    let seconds = value
        .as_f64()
        .or_else(|| value.as_str()?.trim().parse().ok())?;
    (seconds > 0.0).then_some(())?;
    Some(match seconds.fract() == 0.0 {
        true => format!("{seconds}s"),
        false => format!("{}ms", (seconds * 1000.0).round()),
    })
}
