//! Which fields hold ids, and which ids name something that lives on one server.

/// How ids begin that only their maker knows (API reference, 2026-11). Calls of tools (`call_`) and
/// completions (`chatcmpl-`) are not among them: nobody is asked for those again.
const PREFIXES: &[&str] = &[
    "file-", "file_", "upload_", "part_", "batch_", "ftjob-", "ftckpt_", "ftckpt-", "ftevent-",
    "vs_", "vsfb_", "asst_", "thread_", "run_", "step_", "resp_", "conv_", "sess_", "rtc_",
    "cntr_", "cfile_", "eval_", "evalrun_", "video_",
];

/// How ids begin of the items of a response, which a later one may refer to, or repeat.
const ITEMS: &[&str] = &[
    "msg_", "item_", "rs_", "fc_", "fco_", "ws_", "fs_", "ig_", "ci_", "cu_", "cuo_", "ctc_",
    "ctco_", "mcp_", "mcpl_", "mcpr_", "mcpa_", "lsh_", "sh_", "sho_", "apc_", "apco_", "cmp_",
];

/// Longest id, in bytes, as its maker writes it.
pub(super) const LONGEST: usize = 256;

/// What stands under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Holds {
    #[default]
    Other,
    /// An id, or a list of them.
    Ids,
    /// What clients put there for themselves, whatever it looks like.
    Opaque,
}

pub(super) fn holds(key: &[u8]) -> Holds {
    match key {
        b"metadata" | b"attributes" | b"parameters" | b"schema" | b"input_schema"
        | b"item_schema" | b"datasource_item" => Holds::Opaque,
        b"id" | b"training_file" | b"validation_file" | b"result_files" | b"conversation"
        | b"container" => Holds::Ids,
        // chosen by clients, or by models
        b"custom_id" | b"user_id" | b"call_id" | b"tool_call_id" | b"external_id" => Holds::Other,
        key if key.ends_with(b"_id") || key.ends_with(b"_ids") => Holds::Ids,
        _ => Holds::Other,
    }
}

/// Whether an id names something that lives on one server.
pub(super) fn lives_on_one_server(id: &[u8]) -> bool {
    id.len() <= LONGEST && (begins(id, PREFIXES) || is_item(id)) && is_plain(id)
}

/// Whether an id is that of an item of a response.
pub(super) fn is_item(id: &[u8]) -> bool {
    begins(id, ITEMS)
}

fn begins(id: &[u8], prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        let rest = id.strip_prefix(prefix.as_bytes());
        rest.is_some_and(|rest| !rest.is_empty())
    })
}

fn is_plain(id: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    id.iter().all(plain)
}
