//! `uploads`: large files that go up at once, as forms to a transcription endpoint.
//!
//! A thread each: they wait for one another when half is sent, so that all are open at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::report::quoted;
use crate::request;

const BLOCK: usize = 64 * 1024;

struct Plan {
    target: SocketAddr,
    count: usize,
    /// Of 64 KiB, in each file.
    blocks: usize,
    path: String,
    model: String,
    timeout: Duration,
}

/// How far all of them are.
#[derive(Default)]
struct Meeting {
    /// Those that are half sent, or have failed.
    there: AtomicUsize,
}

pub(crate) fn command(mut args: Args) -> Result<(), String> {
    let plan = Plan {
        target: request::target(&mut args)?,
        count: args.need("count")?,
        blocks: args.need::<usize>("mib")? * 16,
        path: args.get("path", "/v1/audio/transcriptions".to_owned())?,
        model: args.get("model", "bench-b".to_owned())?,
        timeout: Duration::from_secs(args.get("timeout", 60)?),
    };
    args.end()?;
    crate::print(&run(&plan));
    Ok(())
}

fn run(plan: &Plan) -> String {
    let (start, meeting) = (Instant::now(), Meeting::default());
    let results: Vec<Result<u64, String>> = std::thread::scope(|scope| {
        let threads = (0..plan.count).map(|_| scope.spawn(|| upload(plan, &meeting)));
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect()
    });
    let bytes: u64 = results.iter().flatten().sum();
    let failed = results.iter().filter(|result| result.is_err()).count();
    let why = results.iter().find_map(|result| result.as_ref().err());
    format!(
        r#"{{"seconds":{:.3},"bytes":{bytes},"good":{},"failed":{failed},"why":{}}}"#,
        start.elapsed().as_secs_f64(),
        plan.count - failed,
        quoted(why.map_or("", String::as_str))
    )
}

/// Sends one file. Its length.
fn upload(plan: &Plan, meeting: &Meeting) -> Result<u64, String> {
    let mut met = false;
    let sent = send(plan, || {
        met = true;
        meeting.there.fetch_add(1, Relaxed);
        let start = Instant::now();
        while meeting.there.load(Relaxed) < plan.count && start.elapsed() < plan.timeout {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    if !met {
        meeting.there.fetch_add(1, Relaxed);
    }
    sent
}

fn send(plan: &Plan, half_way: impl FnOnce()) -> Result<u64, String> {
    let broken = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&plan.target, plan.timeout).map_err(broken)?;
    stream
        .set_read_timeout(Some(plan.timeout))
        .map_err(broken)?;
    stream
        .set_write_timeout(Some(plan.timeout))
        .map_err(broken)?;
    let (first, end) = form(&plan.model);
    let size = (first.len() + plan.blocks * BLOCK + end.len()) as u64;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=bench\r\ncontent-length: {size}\r\n\r\n{first}",
        plan.path
    );
    let sent = write(&mut stream, plan, &head, &end, half_way);
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let good =
        answer.starts_with("HTTP/1.1 200") && answer.contains(&format!(r#""received":{size}}}"#));
    match good {
        true => Ok(size),
        false => Err(match answer.lines().next() {
            Some(line) => format!("answered {line}"),
            None => format!("{:?}, {:?}", sent.err(), read.err()),
        }),
    }
}

fn write(
    stream: &mut TcpStream,
    plan: &Plan,
    head: &str,
    end: &str,
    half_way: impl FnOnce(),
) -> std::io::Result<()> {
    let block = [0x5a; BLOCK];
    stream.write_all(head.as_bytes())?;
    for _ in 0..plan.blocks / 2 {
        stream.write_all(&block)?;
    }
    half_way();
    for _ in plan.blocks / 2..plan.blocks {
        stream.write_all(&block)?;
    }
    stream.write_all(end.as_bytes())
}

/// What comes before the file, and what behind it.
fn form(model: &str) -> (String, String) {
    let first = format!(
        "--bench\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--bench\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\ncontent-type: audio/wav\r\n\r\n"
    );
    (first, "\r\n--bench--\r\n".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::clock::SECOND;
    use crate::serve::{self, Answer, Settings};

    #[test]
    fn files_arrive_whole() {
        let (tell, port) = mpsc::channel();
        let settings = Settings {
            answer: Answer::Received,
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            name: None,
            stall: None,
            lifetime: 20 * SECOND,
        };
        std::thread::spawn(move || serve::run(settings, |ports| tell.send(ports[0]).unwrap()));
        let plan = Plan {
            target: ([127, 0, 0, 1], port.recv().unwrap()).into(),
            count: 4,
            blocks: 32,
            path: "/v1/audio/transcriptions".to_owned(),
            model: "bench-a".to_owned(),
            timeout: Duration::from_secs(10),
        };
        let report = run(&plan);
        assert!(report.contains(r#""good":4,"failed":0"#), "{report}");
    }
}
