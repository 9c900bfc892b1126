//! Ids that lead back to the server that made them, and lists that are on several.

use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::server::{Seen, Wire};
use crate::support::{Answer, Gateway, Request, Server, eventually, form};

/// What a box holds.
#[derive(Default)]
struct Store {
    name: &'static str,
    /// Ids and when they were made, in that order.
    made: Vec<(String, u64)>,
    clock: u64,
}

impl Store {
    fn make(&mut self, prefix: &str) -> String {
        self.clock += 10;
        let id = format!("{prefix}{}{}", self.name, self.made.len());
        self.made.push((id.clone(), self.clock));
        id
    }

    fn time(&self, id: &str) -> Option<u64> {
        let found = self.made.iter().find(|(made, _)| made == id);
        found.map(|(_, time)| *time)
    }

    fn object(&self, id: &str) -> Value {
        json!({ "id": id, "object": "thing", "created_at": self.time(id), "bytes": 3, "filename": "file-in-a-name",
                "purpose": "batch", "metadata": { "file_id": "file-mine" } })
    }

    fn list(&self, prefix: &str, query: &str) -> Value {
        let get = |name: &str| {
            let mut pairs = query.split('&');
            pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let mut all: Vec<&String> = self.made.iter().map(|(id, _)| id).collect();
        all.retain(|id| id.starts_with(prefix));
        if get("order") != Some("asc") {
            all.reverse();
        }
        if let Some(after) = get("after") {
            let at = all.iter().position(|id| *id == after);
            all.drain(..=at.expect("the server knows where to go on"));
        }
        let limit = get("limit").map_or(20, |limit| limit.parse().unwrap());
        let more = all.len() > limit;
        let page: Vec<Value> = all.iter().take(limit).map(|id| self.object(id)).collect();
        json!({ "object": "list", "data": page, "has_more": more })
    }
}

/// A server that holds files, batches and responses, and knows nobody else's.
struct Holder {
    server: Server,
    store: Arc<Mutex<Store>>,
}

impl Holder {
    fn new(name: &'static str) -> Self {
        let store = Arc::new(Mutex::new(Store {
            name,
            ..Store::default()
        }));
        let held = store.clone();
        let server = Server::fake(move |seen, wire| {
            answer(&mut held.lock().unwrap(), seen, wire);
            true
        });
        Holder { server, store }
    }

    fn holding(name: &'static str, files: usize, start: u64) -> Self {
        let holder = Holder::new(name);
        let mut store = holder.store.lock().unwrap();
        store.clock = start;
        for _ in 0..files {
            store.make("file-");
        }
        drop(store);
        holder
    }

    fn targets(&self) -> Vec<String> {
        let seen = self.server.seen();
        seen.iter()
            .map(|seen| format!("{} {}", seen.method, seen.target))
            .collect()
    }
}

fn not_found(wire: &mut Wire, id: &str) {
    let body = json!({ "error": { "message": format!("No such object: {id}"), "code": null } });
    wire.answer(
        404,
        &[("content-type", "application/json")],
        body.to_string(),
    );
}

fn answer(store: &mut Store, seen: &Seen, wire: &mut Wire) {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    let body = || -> Value { serde_json::from_slice(&seen.body).unwrap_or_default() };
    for name in ["input_file_id", "previous_response_id"] {
        if let Some(id) = body()[name].as_str()
            && store.time(id).is_none()
        {
            return not_found(wire, id);
        }
    }
    let named = match parts[..] {
        ["chat", ..] => None,
        ["realtime", ..] => parts.get(2),
        _ => parts.get(1),
    };
    if let Some(id) = named
        && store.time(id).is_none()
    {
        return not_found(wire, id);
    }
    match (seen.method.as_str(), &parts[..]) {
        ("POST", ["files"]) => {
            let id = store.make("file-");
            wire.json(&store.object(&id).to_string());
        }
        ("POST", ["batches"]) => {
            let id = store.make("batch_");
            let input = body()["input_file_id"].clone();
            wire.json(
                &json!({ "id": id, "input_file_id": input, "created_at": store.clock }).to_string(),
            );
        }
        ("POST", ["responses"]) => {
            let id = store.make("resp_");
            let response = json!({ "id": id, "previous_response_id": body()["previous_response_id"], "output": [
                { "id": store.make("msg_"), "content": [{ "type": "output_text", "text": "see file-abc and \"id\":\"file-abc\"" }] },
                { "id": store.make("fc_"), "call_id": "call_1", "arguments": "{\"file_id\":\"file-abc\"}" },
            ] });
            if body()["stream"] != true {
                return wire.json(&response.to_string());
            }
            wire.chunked("text/event-stream");
            let events = format!(
                "event: response.created\ndata: {}\n\nevent: response.completed\ndata: {}\n\n",
                json!({ "type": "response.created", "response": { "id": id } }),
                json!({ "type": "response.completed", "response": response })
            );
            for piece in events.as_bytes().chunks(7) {
                wire.chunk(piece);
            }
            wire.end();
        }
        ("GET", ["files"]) => wire.json(&store.list("file-", query).to_string()),
        ("GET", ["batches"]) => wire.json(&store.list("batch_", query).to_string()),
        ("GET", [_, _, "content"]) => wire.answer(
            200,
            &[("content-type", "application/json")],
            r#"{"id":"file-inside"}"#,
        ),
        ("DELETE", [_, id]) => {
            wire.json(&json!({ "id": id, "object": "file", "deleted": true }).to_string())
        }
        ("GET" | "HEAD", [_, id, ..]) => wire.json(&store.object(id).to_string()),
        ("POST", ["realtime", "calls"]) => {
            let place = format!("/v1/realtime/calls/{}", store.make("rtc_"));
            let headers = [
                ("content-type", "application/sdp"),
                ("location", place.as_str()),
            ];
            wire.answer(201, &headers, "v=0 rtc_inside");
        }
        ("POST", ["chat", "completions"]) => {
            let choices = r#"[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}]"#;
            wire.json(&format!(
                r#"{{"id":"chatcmpl-1","choices":{choices},"file_id":"file-x"}}"#
            ))
        }
        _ => wire.json(&json!({ "id": store.make("vs_"), "call_id": "call_1" }).to_string()),
    }
}

fn config(holders: &[Holder], more: &str) -> String {
    let servers: Vec<String> = holders
        .iter()
        .map(|h| {
            format!(
                "{{ url: '{}', name: {} }}",
                h.server.url(),
                h.store.lock().unwrap().name
            )
        })
        .collect();
    format!(
        "pools: {{ a: {{ servers: [{}], health: false }} }}\nroutes: [{{ name: r, pool: a }}]\n{more}",
        servers.join(", ")
    )
}

const SECRET: &str = "affinity: { secret: a-secret-of-more-than-one }\n";

fn upload(gateway: &Gateway) -> Answer {
    let (content_type, body) = form(&[("purpose", "batch")], b"abc", false);
    let request = Request::new("POST", "/v1/files");
    gateway.send(&request.header("content-type", &content_type).body(body))
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The id as its maker knows it.
fn raw(id: &str) -> &str {
    id.split_once("_tl_").expect("the id has a suffix").0
}

fn by(answer: &Answer) -> String {
    answer.header("x-backend").unwrap().to_owned()
}

#[test]
fn whatever_is_asked_of_a_file_goes_to_the_server_that_has_it() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let gateway = Gateway::start(&config(&holders, ""));
    for _ in 0..6 {
        let made = upload(&gateway);
        let (file, maker) = (id(&made), by(&made));
        assert!(file.starts_with("file-"), "{file}");
        assert_eq!(made.json()["filename"], "file-in-a-name");
        assert_eq!(made.json()["metadata"]["file_id"], "file-mine");
        let path = format!("/v1/files/{file}");
        for _ in 0..4 {
            let again = gateway.get(&path);
            assert_eq!((id(&again), by(&again)), (file.clone(), maker.clone()));
        }
        let content = gateway.get(&format!("{path}/content"));
        assert_eq!(
            (content.text().as_str(), by(&content)),
            (r#"{"id":"file-inside"}"#, maker.clone())
        );
        assert_eq!(by(&gateway.send(&Request::new("HEAD", &path))), maker);
        let deleted = gateway.send(&Request::new("DELETE", &path));
        assert_eq!((id(&deleted), by(&deleted)), (file.clone(), maker.clone()));
        let holder = holders
            .iter()
            .find(|h| maker.ends_with(h.store.lock().unwrap().name));
        let last = holder.unwrap().targets().pop().unwrap();
        assert_eq!(last, format!("DELETE /v1/files/{}", raw(&file)));
    }
    let line = gateway.access_log(1).remove(0);
    assert_eq!(line["server"], "x");
}

#[test]
fn a_forged_id_is_not_found_and_no_server_sees_it() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let gateway = Gateway::start(&config(&holders, SECRET));
    let file = id(&upload(&gateway));
    let seen = || holders.iter().map(|h| h.server.count()).sum::<usize>();
    assert_eq!(seen(), 1);
    let mut forged = file.clone();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.push(last);
    let other = file.replace("file-", "file-1");
    for id in [forged.as_str(), &other, "file-1_tl_AAAAAAAAAAAAAAAAAAAA"] {
        let body = |name: &str| format!(r#"{{"{name}":"{id}"}}"#);
        for answer in [
            gateway.get(&format!("/v1/files/{id}")),
            gateway.get(&format!("/v1/files/{id}/content")),
            gateway.get(&format!("/v1/files?after={id}")),
            gateway.get(&format!("/v1/realtime?call_id={id}")),
            gateway.send(&Request::new("DELETE", &format!("/v1/files/{id}"))),
            gateway.post("/v1/batches", &body("input_file_id")),
            gateway.post("/v1/responses", &body("previous_response_id")),
            gateway.post("/v1/chat/completions", &body("file_id")),
        ] {
            assert_eq!(
                (answer.status, answer.code()),
                (404, "id_not_found".to_owned())
            );
        }
    }
    assert_eq!(seen(), 1);
}

#[test]
fn bodies_that_name_an_object_follow_it_and_lose_only_the_suffix() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let gateway = Gateway::start(&config(&holders, ""));
    for n in 0..6 {
        let made = upload(&gateway);
        let file = id(&made);
        let sent = format!(
            r#"{{ "endpoint":"/v1/x", "input_file_id" : "{file}" ,"metadata":{{"mine":"{file}"}}, "n":{n} }}"#
        );
        let batch = gateway.post("/v1/batches", &sent);
        assert_eq!(by(&batch), by(&made));
        assert_eq!(batch.json()["input_file_id"], file.as_str());
        let path = format!("/v1/batches/{}", id(&batch));
        assert_eq!(by(&gateway.get(&path)), by(&made));
        let holder = holders
            .iter()
            .find(|h| by(&made).ends_with(h.store.lock().unwrap().name));
        let seen = holder.unwrap().server.seen();
        let got = seen
            .iter()
            .find(|seen| seen.target == "/v1/batches")
            .unwrap();
        if n < 3 {
            let expected = sent.replacen(&file, raw(&file), 1);
            assert_eq!(String::from_utf8_lossy(&got.body), expected);
        }
        // chats carry ids, and make none
        let chat = format!(
            r#"{{"model":"m","messages":[{{"content":[{{"type":"file","file":{{"file_id":"{file}"}}}}]}}]}}"#
        );
        let chat = gateway.post("/v1/chat/completions", &chat);
        assert_eq!(by(&chat), by(&made));
        assert_eq!(chat.json()["file_id"], "file-x");
    }
}

#[test]
fn a_conversation_stays_with_its_server_whole_or_streamed() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let gateway = Gateway::start(&config(&holders, ""));
    for _ in 0..3 {
        let first = gateway.post("/v1/responses", r#"{"model":"m","input":"hi"}"#);
        let (maker, mut last) = (by(&first), id(&first));
        let text = &first.json()["output"][0]["content"][0]["text"];
        assert_eq!(text, "see file-abc and \"id\":\"file-abc\"");
        assert_eq!(first.json()["output"][1]["call_id"], "call_1");
        assert_eq!(
            first.json()["output"][1]["arguments"],
            r#"{"file_id":"file-abc"}"#
        );
        for stream in [false, true, true, false] {
            let body =
                format!(r#"{{"stream":{stream},"model":"m","previous_response_id":"{last}"}}"#);
            let next = gateway.post("/v1/responses", &body);
            assert_eq!(
                (next.status, by(&next)),
                (200, maker.clone()),
                "{}",
                next.text()
            );
            let response = match stream {
                false => next.json(),
                true => {
                    let text = next.text();
                    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                    let mut events = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                    let created = events.next().unwrap()["response"]["id"].clone();
                    let whole = events.next().unwrap()["response"].clone();
                    assert_eq!(whole["id"], created);
                    whole
                }
            };
            assert_eq!(response["previous_response_id"], last.as_str());
            assert!(
                response["output"][0]["id"]
                    .as_str()
                    .unwrap()
                    .contains("_tl_")
            );
            last = response["id"].as_str().unwrap().to_owned();
        }
        let item = format!(r#"{{"input":[{{"type":"item_reference","id":"{last}"}}]}}"#);
        assert_eq!(by(&gateway.post("/v1/responses", &item)), maker);
    }
}

#[test]
fn what_a_client_repeats_of_a_conversation_binds_it_to_nobody() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let gateway = Gateway::start(&config(&holders, ""));
    let item = || {
        let answer = gateway.post("/v1/responses", r#"{"model":"m","input":"hi"}"#);
        answer.json()["output"][0].clone()
    };
    // of two servers, and one from before a restart
    let mut input = vec![item(), item(), item()];
    input[2]["id"] = json!("msg_z_tl_AAAAAAAAAAAAAAAAAAAA");
    let whole = json!({ "model": "m", "input": input }).to_string();
    let answers = [(); 2].map(|()| by(&gateway.post("/v1/responses", &whole)));
    assert_ne!(answers[0], answers[1], "they take turns");
    for holder in &holders {
        let seen = holder.server.seen().pop().unwrap();
        assert!(!seen.text().contains("_tl_"), "{}", seen.text());
        assert_eq!(seen.json()["input"][2]["id"], "msg_z");
    }
}

#[test]
fn an_object_is_found_whose_route_asks_for_a_model() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let pools: Vec<String> = (holders.iter().zip(["p", "q", "rest"]))
        .map(|(h, name)| {
            format!(
                "{name}: {{ servers: ['{}'], health: false }}",
                h.server.url()
            )
        })
        .collect();
    let routes = "routes: [{ match: { model: one }, pool: p }, { match: { model: two, path: '/v1/responses*' }, pool: q }, { match: { path: '/v1/*' }, pool: rest }]";
    let gateway = Gateway::start(&format!("pools: {{ {} }}\n{routes}\n", pools.join(", ")));
    for (model, maker) in [("one", "p"), ("two", "q"), ("three", "rest")] {
        let made = gateway.post("/v1/responses", &format!(r#"{{"model":"{model}"}}"#));
        assert!(by(&made).starts_with(maker), "{}", by(&made));
        let path = format!("/v1/responses/{}", id(&made));
        let found = gateway.get(&path);
        assert_eq!((found.status, by(&found)), (200, by(&made)));
        let cancelled = gateway.post(&format!("{path}/cancel"), "{}");
        assert_eq!(by(&cancelled), by(&made));
        let other = format!(
            r#"{{"model":"three","previous_response_id":"{}"}}"#,
            id(&made)
        );
        let next = gateway.post("/v1/responses", &other);
        assert_eq!(next.status, if model == "three" { 200 } else { 404 });
    }
}

#[test]
fn the_way_back_leads_around_no_route() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let servers: Vec<String> = holders.iter().map(|h| h.server.url()).collect();
    let gateway = Gateway::start(&format!(
        "pools: {{ home: {{ servers: ['{}', '{}'], health: false }}, cloud: {{ servers: ['{}'], health: false, zone: cloud }} }}\nroutes: [{{ match: {{ headers: {{ x-private: 'yes' }} }}, pool: home, zone: home }}, {{ pool: cloud, fallback: [home] }}]\n",
        servers[0], servers[1], servers[2]
    ));
    let made = upload(&gateway);
    assert_eq!(by(&made), "cloud/127.0.0.1");
    let path = format!("/v1/files/{}", id(&made));
    assert_eq!(gateway.get(&path).status, 200);
    let private = gateway.send(&Request::get(&path).header("x-private", "yes"));
    assert_eq!(
        (private.status, private.code()),
        (404, "id_not_found".to_owned())
    );
    assert_eq!(holders[2].server.count(), 2);
}

#[test]
fn forms_and_cursors_below_an_object_follow_it_too() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let gateway = Gateway::start(&config(&holders, ""));
    for _ in 0..3 {
        let store = gateway.post("/v1/vector_stores", "{}");
        let (store, maker) = (id(&store), by(&store));
        let event = id(&gateway.get(&format!("/v1/vector_stores/{store}")));
        let page = gateway.get(&format!(
            "/v1/vector_stores/{store}/files?limit=2&after={event}&x={event}y"
        ));
        assert_eq!((page.status, by(&page)), (200, maker.clone()));
        let holder = holders
            .iter()
            .find(|h| maker.ends_with(h.store.lock().unwrap().name))
            .unwrap();
        let own = raw(&store);
        let last = holder.targets().pop().unwrap();
        assert_eq!(
            last,
            format!("GET /v1/vector_stores/{own}/files?limit=2&after={own}&x={event}y")
        );
        let (content_type, body) = form(&[("file_id", &store), ("purpose", "x")], b"_tl_", true);
        let (_, expected) = form(&[("file_id", own), ("purpose", "x")], b"_tl_", true);
        let request = Request::new("POST", &format!("/v1/vector_stores/{store}/files"));
        let added = gateway.send(
            &request
                .header("content-type", &content_type)
                .body(body)
                .chunked(7),
        );
        assert_eq!(by(&added), maker);
        assert_eq!(holder.server.seen().pop().unwrap().body, expected);
    }
}

#[test]
fn answers_that_are_packed_all_the_same_are_passed_on() {
    let boxes = [(); 2].map(|()| {
        Server::fake(|seen, wire| {
            assert_eq!(seen.header("accept-encoding"), Some("identity"));
            let headers = [
                ("content-type", "application/json"),
                ("content-encoding", "x"),
            ];
            wire.answer(200, &headers, r#"{"id":"file-1"}"#);
            true
        })
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}', '{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        boxes[0].url(),
        boxes[1].url()
    ));
    let request = Request::get("/v1/files/file-1").header("accept-encoding", "gzip, br");
    let answer = gateway.send(&request);
    assert_eq!(answer.text(), r#"{"id":"file-1"}"#);
    let listed = gateway.send(&Request::get("/v1/files").header("accept-encoding", "gzip"));
    assert_eq!(
        (listed.status, listed.code()),
        (502, "upstream_invalid".to_owned())
    );
}

#[test]
fn a_call_is_found_by_its_location() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let gateway = Gateway::start(&config(&holders, ""));
    for _ in 0..4 {
        let request = Request::new("POST", "/v1/realtime/calls");
        let made = gateway.send(
            &request
                .header("content-type", "application/sdp")
                .body("v=0"),
        );
        assert_eq!((made.status, made.text().as_str()), (201, "v=0 rtc_inside"));
        let place = made.header("location").unwrap();
        let hung_up = gateway.post(&format!("{place}/hangup"), "{}");
        assert_eq!(by(&hung_up), by(&made));
        let call = place.rsplit('/').next().unwrap();
        assert_eq!(
            by(&gateway.get(&format!("/v1/realtime?call_id={call}"))),
            by(&made)
        );
    }
}

#[test]
fn ids_of_two_servers_in_one_request_are_refused() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let gateway = Gateway::start(&config(&holders, ""));
    let (one, two) = (id(&upload(&gateway)), id(&upload(&gateway)));
    let body = format!(r#"{{"file_ids":["{one}","{two}"]}}"#);
    let answer = gateway.post("/v1/vector_stores", &body);
    assert_eq!(
        (answer.status, answer.code()),
        (400, "invalid_request".to_owned())
    );
    assert!(
        answer.text().contains("different servers"),
        "{}",
        answer.text()
    );
    let body = format!(r#"{{"file_ids":["{one}","{one}"]}}"#);
    let made = gateway.post("/v1/vector_stores", &body);
    assert_eq!((made.status, by(&made)), (200, "a/x".to_owned()));
    let seen = holders[0].server.seen().pop().unwrap();
    let one = raw(&one);
    assert_eq!(seen.json(), json!({ "file_ids": [one, one] }));
}

#[test]
fn another_server_is_never_asked() {
    let (x, y) = (Holder::new("x"), Holder::new("y"));
    let holders = [x, y];
    let more = "affinity: {}\n";
    let text = config(&holders, more).replace("pool: a }", "pool: a, retry: { attempts: 3 } }");
    let gateway = Gateway::start(&text);
    let made = upload(&gateway);
    assert_eq!(by(&made), "a/x");
    let path = format!("/v1/files/{}", id(&made));
    holders[0].server.kill();
    for _ in 0..8 {
        let answer = gateway.get(&path);
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(
            answer.text().contains("`x` of pool `a`"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(holders[1].server.count(), 0);
    assert_eq!(by(&upload(&gateway)), "a/y", "others go on");
}

#[test]
fn an_ejected_server_is_asked_for_what_only_it_has() {
    let broken = Arc::new(Mutex::new(false));
    let breaks = broken.clone();
    let store = Mutex::new(Store {
        name: "x",
        ..Store::default()
    });
    let server = Server::fake(move |seen, wire| {
        if *breaks.lock().unwrap() {
            wire.reset();
            return false;
        }
        answer(&mut store.lock().unwrap(), seen, wire);
        true
    });
    let y = Holder::new("y");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: x }}, {{ url: '{}', name: y }}], health: false, eject: {{ after: 1, for: 10m }} }} }}\nroutes: [{{ pool: a, retry: {{ attempts: 1 }} }}]\n",
        server.url(),
        y.server.url()
    ));
    let made = upload(&gateway);
    assert_eq!(by(&made), "a/x");
    let path = format!("/v1/files/{}", id(&made));
    *broken.lock().unwrap() = true;
    assert_eq!(gateway.get(&path).status, 502);
    assert_eq!(gateway.metric("trunkline_ejections_total", &[]), 1.0);
    *broken.lock().unwrap() = false;
    assert_eq!(by(&upload(&gateway)), "a/y");
    let found = gateway.get(&path);
    assert_eq!((found.status, by(&found)), (200, "a/x".to_owned()));
}

#[test]
fn instances_with_one_secret_understand_each_other_and_others_do_not() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let one = Gateway::start(&config(&holders, SECRET));
    let two = Gateway::start(&config(&holders, SECRET));
    let alone = Gateway::start(&config(&holders, ""));
    for _ in 0..4 {
        let made = upload(&one);
        let path = format!("/v1/files/{}", id(&made));
        let found = two.get(&path);
        assert_eq!((id(&found), by(&found)), (id(&made), by(&made)));
        assert_eq!(alone.get(&path).status, 404);
    }
}

#[test]
fn ids_outlive_a_reload_but_not_their_server() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let text = |n: usize| {
        format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nlist_models: false\n{}",
            config(&holders[n..], "")
        )
    };
    let gateway = Gateway::start(&text(0));
    let made: Vec<Answer> = (0..3).map(|_| upload(&gateway)).collect();
    let of = |name: &str| {
        let made = made.iter().find(|made| by(made) == name).unwrap();
        format!("/v1/files/{}", id(made))
    };
    std::fs::write(gateway.config_path(), text(1)).unwrap();
    let reloaded = Request::new("POST", "/reload").send(gateway.admin);
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!(by(&gateway.get(&of("a/y"))), "a/y");
    let gone = gateway.get(&of("a/x"));
    assert_eq!((gone.status, gone.code()), (404, "id_not_found".to_owned()));
    assert!(
        gone.text().contains("The server that made this id"),
        "{}",
        gone.text()
    );
}

#[test]
fn a_drained_or_busy_server_is_asked_and_waited_for() {
    let (gate, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let store = Mutex::new(Store {
        name: "x",
        ..Store::default()
    });
    let server = Server::fake(move |seen, wire| {
        if seen.target.ends_with("/content") {
            let _ = wait.lock().unwrap().recv();
        }
        answer(&mut store.lock().unwrap(), seen, wire);
        true
    });
    let y = Holder::new("y");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: x, slots: 1 }}, {{ url: '{}', name: y, slots: 1 }}], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        server.url(),
        y.server.url()
    ));
    let made = upload(&gateway);
    assert_eq!(by(&made), "a/x");
    let path = format!("/v1/files/{}", id(&made));
    let first = gateway.send_aside(&Request::get(&format!("{path}/content")));
    eventually("the slot is taken", || server.count() == 2);
    let second = gateway.send_aside(&Request::get(&path));
    eventually("it waits", || {
        gateway.metric("trunkline_queue_depth", &[]) == 1.0
    });
    // a list needs no slot
    assert_eq!(
        gateway.get("/v1/files").json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    gate.send(()).unwrap();
    assert_eq!(by(&first.join().unwrap()), "a/x");
    assert_eq!(by(&second.join().unwrap()), "a/x");
    assert_eq!(y.targets(), ["GET /v1/files?limit=10000"]);
    let drained = Request::new("POST", "/drain/a/x").send(gateway.admin);
    assert_eq!(drained.status, 200, "{}", drained.text());
    assert_eq!(by(&upload(&gateway)), "a/y");
    assert_eq!(by(&gateway.get(&path)), "a/x");
}

#[test]
fn what_must_stay_at_home_is_not_fetched_from_the_cloud() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false }}, c: {{ servers: ['{}'], health: false, zone: cloud }} }}\nroutes: [{{ match: {{ method: GET }}, pool: a, fallback: [c] }}, {{ pool: c, fallback: [a] }}]\n",
        holders[0].server.url(),
        holders[1].server.url()
    ));
    let made = upload(&gateway);
    assert_eq!(by(&made), "c/127.0.0.1");
    let path = format!("/v1/files/{}", id(&made));
    assert_eq!(by(&gateway.get(&path)), "c/127.0.0.1");
    let answer = gateway.send(&Request::get(&path).header("x-data-zone", "home"));
    assert_eq!(
        (answer.status, answer.code()),
        (404, "id_not_found".to_owned())
    );
    assert_eq!(holders[0].server.count(), 0);
}

#[test]
fn a_single_server_and_a_route_without_affinity_change_nothing() {
    let one = [Holder::new("x")];
    let two = [Holder::new("x"), Holder::new("y")];
    let off = config(&two, "").replace("pool: a }", "pool: a, affinity: false }");
    for (text, holders) in [(config(&one, ""), &one[..]), (off, &two[..])] {
        let gateway = Gateway::start(&text);
        let made = upload(&gateway);
        assert_eq!(id(&made), "file-x0");
        assert!(made.header("content-length").is_some());
        // as if another Trunkline stood behind this one
        let path = "/v1/files/file-x0_tl_AAAAAAAAAAAAAAAAAAAA";
        gateway.get(path);
        let seen: Vec<String> = holders.iter().flat_map(Holder::targets).collect();
        assert!(seen.contains(&format!("GET {path}")), "{seen:?}");
        gateway.get("/v1/files");
        let lists = |holder: &Holder| {
            holder
                .targets()
                .iter()
                .filter(|t| *t == "GET /v1/files")
                .count()
        };
        assert_eq!(holders.iter().map(lists).sum::<usize>(), 1);
    }
}

#[test]
fn an_id_of_before_is_planned_as_usual() {
    let holders = [Holder::holding("x", 1, 0), Holder::holding("x", 1, 0)];
    let text = config(&holders, "").replacen("name: x", "name: w", 1);
    let gateway = Gateway::start(&text);
    let found: Vec<String> = (0..2)
        .map(|_| by(&gateway.get("/v1/files/file-x0")))
        .collect();
    assert_eq!(found, ["a/w", "a/x"]);
}

#[test]
fn lists_of_all_servers_are_one_by_time() {
    let holders = [
        Holder::holding("x", 25, 0),
        Holder::holding("y", 25, 3),
        Holder::holding("z", 25, 0),
    ];
    let gateway = Gateway::start(&config(&holders, ""));
    let page = |query: &str| {
        let answer = gateway.get(&format!("/v1/files?purpose=batch{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-partial"), None);
        answer.json()
    };
    for order in ["desc", "asc"] {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = page(&format!("&limit=10&order={order}{after}"));
            let data = page["data"].as_array().unwrap().clone();
            assert_eq!(page["first_id"], data[0]["id"]);
            all.extend(data.iter().map(|o| {
                (
                    o["created_at"].as_u64().unwrap(),
                    o["id"].as_str().unwrap().to_owned(),
                )
            }));
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
            assert_eq!(data.len(), 10);
        }
        assert_eq!(all.len(), 75);
        let ids: std::collections::HashSet<_> = all.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), 75);
        assert!(
            all.windows(2)
                .all(|two| (two[0].0 >= two[1].0) == (order == "desc") || two[0].0 == two[1].0)
        );
        assert_eq!(gateway.get(&format!("/v1/files/{}", all[40].1)).status, 200);
    }
    // all of it at once, as files are listed without a limit
    assert_eq!(page("")["data"].as_array().unwrap().len(), 75);
    assert!(
        holders
            .iter()
            .all(|h| h.targets().iter().all(|t| !t.contains("_tl_")))
    );
    let refused = gateway.get("/v1/files?before=file-1");
    assert_eq!(
        (refused.status, refused.code()),
        (400, "invalid_request".to_owned())
    );
}

#[test]
fn what_a_server_that_is_down_has_is_missing_and_that_is_said() {
    let holders = [Holder::holding("x", 3, 0), Holder::holding("y", 3, 3)];
    let gateway = Gateway::start(&config(&holders, ""));
    assert_eq!(
        gateway.get("/v1/files").json()["data"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    holders[0].server.kill();
    let partial = gateway.get("/v1/files");
    assert_eq!(partial.status, 200);
    assert_eq!(partial.header("x-partial"), Some("a/x"));
    assert_eq!(partial.json()["data"].as_array().unwrap().len(), 3);
    holders[1].server.kill();
    let none = gateway.get("/v1/files");
    assert_eq!(
        (none.status, none.code()),
        (502, "upstream_invalid".to_owned())
    );
}

#[test]
fn servers_without_such_lists_are_not_missed() {
    let holder = Holder::holding("x", 3, 0);
    let other = Server::failing(404);
    let text = |first: &str, second: &str| {
        format!(
            "pools: {{ a: {{ servers: [{{ url: '{first}', name: p }}, {{ url: '{second}', name: q }}], health: false }} }}\nroutes: [{{ pool: a }}]\n"
        )
    };
    let gateway = Gateway::start(&text(&holder.server.url(), &other.url()));
    let answer = gateway.get("/v1/files");
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 3);
    assert_eq!(answer.header("x-partial"), None);
    let another = Server::failing(404);
    let gateway = Gateway::start(&text(&other.url(), &another.url()));
    let answer = gateway.get("/v1/files");
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains("upstream says 404"),
        "{}",
        answer.text()
    );
}

#[test]
fn the_sdks_page_through_lists_of_several_servers() {
    let holders = [
        Holder::holding("x", 25, 0),
        Holder::holding("y", 25, 3),
        Holder::holding("z", 25, 0),
    ];
    let gateway = Gateway::start(&config(&holders, ""));
    for name in ["lists.py", "lists.mjs"] {
        let mut command: Command = crate::sdk::script(name, &gateway);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            said.trim(),
            "75 files, in order, and each is found",
            "{name}"
        );
    }
}

#[test]
fn a_secret_that_is_short_or_missing_is_told() {
    let holders = [Holder::new("x"), Holder::new("y")];
    let check = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trunkline.yaml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(crate::support::gateway::BINARY)
            .arg("check-config")
            .arg(&path)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (good, said) = check(&config(&holders, "affinity: { secret: short }\n"));
    assert!(!good && said.contains("at least 16 characters"), "{said}");
    assert!(!said.contains("short }"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trunkline.yaml");
    std::fs::write(&path, config(&holders, SECRET)).unwrap();
    let mut show = Command::new(crate::support::gateway::BINARY);
    let shown = show
        .args(["config", "show", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("secret: '[redacted secret]'"), "{shown}");
    assert!(!shown.contains("a-secret-of"), "{shown}");
    let named = |more: &str| {
        config(&holders, more).replace("pool: a }", "match: { path: '/v1/files*' }, pool: a }")
    };
    let (good, said) = check(&named(""));
    assert!(
        good && said.contains("lead nowhere after a restart"),
        "{said}"
    );
    let (good, said) = check(
        &named("affinity: { secret: '${TL_AFFINITY_OF_A_TEST}' }\n")
            .replace("${TL_AFFINITY_OF_A_TEST}", "a-secret-of-more-than-one"),
    );
    assert!(good && !said.contains("lead nowhere"), "{said}");
    let speaks = config(&holders, "").replace("health:", "kind: kokoro, health:");
    assert!(!Gateway::start(&speaks).stderr().contains("lead nowhere"));
    assert!(
        Gateway::start(&config(&holders, ""))
            .stderr()
            .contains("lead nowhere")
    );
    let (good, said) = check(&config(&holders, ""));
    assert!(good && !said.contains("lead nowhere"), "{said}");
}

#[test]
fn what_was_said_before_of_a_file_goes_where_the_file_is() {
    let holders = [Holder::new("x"), Holder::new("y"), Holder::new("z")];
    let memory = "pool: a, memory: { by: header x-session-id }";
    let gateway =
        Gateway::start(&config(&holders, "").replace("pool: a }", &format!("{memory} }}")));
    let of_file = |file: &str| {
        format!(r#"{{"role":"user","content":[{{"type":"file","file":{{"file_id":"{file}"}}}}]}}"#)
    };
    let say = |session: &str, message: &str| {
        let body = format!(r#"{{"model":"m","messages":[{message}]}}"#);
        let request = Request::json("/v1/chat/completions", &body);
        gateway.send(&request.header("x-session-id", session))
    };
    let last = |by: &str| {
        let holder = holders
            .iter()
            .find(|h| by.ends_with(h.store.lock().unwrap().name));
        holder.unwrap().server.seen().pop().unwrap().text()
    };
    for n in 0..4 {
        let made = upload(&gateway);
        let (file, session) = (id(&made), format!("s{n}"));
        assert_eq!(by(&say(&session, &of_file(&file))), by(&made));
        for turn in 1..3 {
            let answer = say(&session, r#"{"role":"user","content":"and then?"}"#);
            assert_eq!(by(&answer), by(&made), "it can only be asked there");
            assert_eq!(answer.header("x-memory"), Some(&*(2 * turn).to_string()));
            let told = last(&by(&answer));
            assert!(told.contains(&format!("\"{}\"", raw(&file))), "{told}");
            assert!(!told.contains("_tl_"), "{told}");
        }
        // what is somewhere else cannot be talked about in the same breath
        let other = (0..9).map(|_| upload(&gateway));
        let other = other
            .into_iter()
            .find(|other| by(other) != by(&made))
            .unwrap();
        let answer = say(&session, &of_file(&id(&other)));
        assert_eq!(
            (by(&answer), answer.header("x-memory")),
            (by(&other), Some("0"))
        );
    }
}
