//! The providers whose API is OpenAI's, and how a model's name tells them.

use serde_yaml::Value;

use super::super::draft::Draft;

/// A provider whose API is OpenAI's.
pub(super) struct Provider {
    pub(super) prefix: &'static str,
    pub(super) kind: Option<&'static str>,
    /// Where it is when the entry does not say.
    pub(super) url: Option<&'static str>,
    /// Where LiteLLM finds the key when the entry has none.
    pub(super) variable: Option<&'static str>,
}

const fn service(
    prefix: &'static str,
    kind: &'static str,
    url: &'static str,
    variable: &'static str,
) -> Provider {
    Provider {
        prefix,
        kind: Some(kind),
        url: Some(url),
        variable: Some(variable),
    }
}

const fn other(prefix: &'static str, url: &'static str, variable: &'static str) -> Provider {
    Provider {
        prefix,
        kind: None,
        url: Some(url),
        variable: Some(variable),
    }
}

const fn at_home(
    prefix: &'static str,
    kind: Option<&'static str>,
    url: Option<&'static str>,
) -> Provider {
    Provider {
        prefix,
        kind,
        url,
        variable: None,
    }
}

/// litellm/constants.py and litellm/llms/*: base URLs and variables.
const PROVIDERS: &[Provider] = &[
    service(
        "openai",
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
    ),
    service(
        "text-completion-openai",
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
    ),
    service(
        "groq",
        "groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
    ),
    service(
        "together_ai",
        "together",
        "https://api.together.xyz/v1",
        "TOGETHERAI_API_KEY",
    ),
    service(
        "fireworks_ai",
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
    ),
    service(
        "openrouter",
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
    ),
    other(
        "anthropic",
        "https://api.anthropic.com/v1",
        "ANTHROPIC_API_KEY",
    ),
    other(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
    ),
    other(
        "deepseek",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
    ),
    other("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    other("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
    other("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    other(
        "deepinfra",
        "https://api.deepinfra.com/v1/openai",
        "DEEPINFRA_API_KEY",
    ),
    other(
        "nvidia_nim",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_NIM_API_KEY",
    ),
    at_home("ollama", Some("ollama"), Some("http://localhost:11434")),
    at_home(
        "ollama_chat",
        Some("ollama"),
        Some("http://localhost:11434"),
    ),
    at_home("hosted_vllm", Some("vllm"), None),
    at_home("vllm", Some("vllm"), None),
    at_home("lm_studio", Some("lmstudio"), None),
    at_home("litellm_proxy", Some("litellm"), None),
    at_home("openai_like", None, None),
    at_home("custom_openai", None, None),
    at_home("llamafile", None, None),
];

/// Models that LiteLLM knows to be OpenAI's, and Anthropic's, without a prefix.
const OPENAI_MODELS: &[&str] = &[
    "gpt-",
    "chatgpt-",
    "o1",
    "o3",
    "o4",
    "whisper-1",
    "tts-1",
    "text-embedding-",
    "dall-e-",
    "omni-moderation",
    "davinci",
    "babbage",
];

/// Who is asked, and the model's name there.
pub(super) fn find(
    name: &str,
    model: &str,
    params: &Value,
    draft: &mut Draft,
) -> Option<(&'static Provider, String)> {
    let named = |prefix: &str| PROVIDERS.iter().find(|provider| provider.prefix == prefix);
    if let Some(prefix) = params.get("custom_llm_provider").and_then(Value::as_str) {
        let own = model.strip_prefix(&format!("{prefix}/")).unwrap_or(model);
        return known(name, prefix, named(prefix), draft).map(|p| (p, own.to_owned()));
    }
    if let Some((prefix, own)) = model.split_once('/') {
        return known(name, prefix, named(prefix), draft).map(|p| (p, own.to_owned()));
    }
    let prefix = match model {
        model if model.starts_with("claude") => "anthropic",
        model if OPENAI_MODELS.iter().any(|start| model.starts_with(start)) => "openai",
        "*" => "openai",
        // whose address is given is asked in OpenAI's way
        _ if params.get("api_base").is_some() => "openai_like",
        _ => "unknown",
    };
    known(name, prefix, named(prefix), draft).map(|p| (p, model.to_owned()))
}

fn known(
    name: &str,
    prefix: &str,
    provider: Option<&'static Provider>,
    draft: &mut Draft,
) -> Option<&'static Provider> {
    if provider.is_none() {
        draft.warn(format!(
            "model `{name}`: the provider `{prefix}` does not speak OpenAI's API; \
             keep LiteLLM for it, behind a pool of `kind: litellm`"
        ));
    }
    provider
}
