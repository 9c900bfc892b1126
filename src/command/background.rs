//! `trunkline start` and `stop`: the program in the background, found again by a file with its
//! process id.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::progress;
use super::upgrade::{Patience, Program, READY, Waiting};
use crate::cli::{FAILED, NOT_RUNNING, OK, Start, Stop};

/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(20);
/// As the environment of `run` says it, so that an upgraded program keeps it.
const PID_FILE: &str = "TRUNKLINE_PID_FILE";
/// Set for a program that leaves the terminal it was started from.
const BACKGROUND: &str = "TRUNKLINE_BACKGROUND";

// === the process id, in a file ===

/// A file with our process id, removed at the end if it is still ours.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it. A program without one still serves: it is only said.
    pub(super) fn write(path: &Path) -> Option<Self> {
        write_pid(path).then(|| PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read_pid(&self.0) == Ok(Some(std::process::id())) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Writes our process id, or says why not. Also when another one that was to go on has failed, and
/// has written its own already.
pub(super) fn write_pid(path: &Path) -> bool {
    let written = replace(path, &format!("{}\n", std::process::id()));
    if let Err(error) = &written {
        log::warn!("{} cannot be written: {error}", path.display());
    }
    written.is_ok()
}

/// Nobody sees it half written.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// The number in a file; `None` if there is no file.
fn read_pid(path: &Path) -> Result<Option<u32>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(pid) => Ok(Some(pid)),
            Err(_) => Err(format!("{} holds no process id", path.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// What a file with a process id leads to.
enum Lead {
    Runs(u32),
    /// The process has ended.
    Gone(u32),
    /// Its number is another program's by now, with this name.
    Other(u32, String),
    Nowhere,
}

fn follow(path: &Path) -> Result<Lead, String> {
    Ok(match read_pid(path)? {
        None => Lead::Nowhere,
        Some(pid) if is_one_of_us(pid) => Lead::Runs(pid),
        Some(pid) if is_alive(pid) => Lead::Other(pid, name_of(&pid.to_string())),
        Some(pid) => Lead::Gone(pid),
    })
}

/// Whether a process runs, and runs this program.
fn is_one_of_us(pid: u32) -> bool {
    is_alive(pid) && name_of(&pid.to_string()) == name_of("self")
}

fn name_of(pid: &str) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // behind the name, which may hold anything, comes the state; Z has ended
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, Some(Some('Z' | 'X')))
}

// === where the files are ===

/// A folder for what must not outlive a restart of the machine.
fn run_folder() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/run/trunkline".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder).join("trunkline"),
        None => state_folder(),
    }
}

/// A folder for what is kept.
fn state_folder() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/log/trunkline".into();
    }
    let variable = |name| std::env::var_os(name).filter(|folder| !folder.is_empty());
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    state.unwrap_or_else(std::env::temp_dir).join("trunkline")
}

fn pid_file(asked: Option<&Path>) -> PathBuf {
    asked.map_or_else(|| run_folder().join("trunkline.pid"), Path::to_owned)
}

// === start ===

/// Starts the program in the background, and waits until it serves.
pub(crate) fn start(options: &Start) -> u8 {
    let pid_file = pid_file(options.run.pid_file.as_deref());
    match follow(&pid_file) {
        Ok(Lead::Runs(pid)) => {
            println!("trunkline runs already (process {pid})");
            return OK;
        }
        Ok(Lead::Gone(pid)) => {
            let file = pid_file.display();
            eprintln!(
                "trunkline: {file} is left over from process {pid}, which is gone; starting anew"
            );
        }
        Ok(Lead::Other(pid, name)) => {
            let file = pid_file.display();
            eprintln!(
                "trunkline: {file} names process {pid}, which is `{name}` by now; starting anew"
            );
        }
        Ok(Lead::Nowhere) => {}
        Err(why) => eprintln!("trunkline: {why}; starting anew"),
    }
    let log_file = options.log_file.clone();
    let log_file = log_file.unwrap_or_else(|| state_folder().join("trunkline.log"));
    let started = open_log(&log_file)
        .map_err(|e| format!("{} cannot be opened: {e}", log_file.display()))
        .and_then(|log| launch(&pid_file, log));
    match started {
        Ok(Launched::Serves(pid)) => {
            println!(
                "trunkline runs (process {pid}); its messages are in {}",
                log_file.display()
            );
            OK
        }
        Ok(Launched::Ended { code, said }) => {
            eprint!("{said}");
            code
        }
        Err(why) => {
            eprintln!("trunkline: {why}");
            FAILED
        }
    }
}

enum Launched {
    Serves(u32),
    Ended { code: u8, said: String },
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
}

/// What was typed behind `start` is what `run` takes, except for the log file.
fn launch(pid_file: &Path, mut log: File) -> Result<Launched, String> {
    let begin = log.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let output = || log.try_clone().map(Stdio::from).map_err(|e| e.to_string());
    let waiting = Waiting::new().map_err(|e| format!("nobody can be waited for: {e}"))?;
    // as it was typed: behind a link there may be another one at the next upgrade
    let mut command = Command::new(Program::this().path);
    command
        .arg("run")
        .args(arguments_of_run(std::env::args_os().skip(1)));
    command
        .env(READY, &waiting.name)
        .env(
            PID_FILE,
            std::path::absolute(pid_file).map_err(|e| e.to_string())?,
        )
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?);
    let mut child = command
        .spawn()
        .map_err(|e| format!("it cannot be started: {e}"))?;
    let shown = progress::show("the program");
    let waited = waiting.wait(&mut child, &mut Patience::new(&mut || false));
    drop(shown);
    match waited {
        Ok(()) => Ok(Launched::Serves(child.id())),
        Err(why) => Ok(ended(&mut child, &mut log, begin, &why)),
    }
}

fn ended(child: &mut Child, log: &mut File, begin: u64, why: &str) -> Launched {
    let mut said = String::new();
    let _ = log.seek(SeekFrom::Start(begin));
    let _ = log.read_to_string(&mut said);
    let code = child.wait().ok().and_then(|status| status.code());
    if said.trim().is_empty() {
        said = format!("trunkline: {why}\n");
    }
    Launched::Ended {
        code: code
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(FAILED),
        said,
    }
}

/// The arguments without the command, and without those that only `start` knows.
fn arguments_of_run(
    typed: impl Iterator<Item = std::ffi::OsString>,
) -> impl Iterator<Item = std::ffi::OsString> {
    const OWN: &[&str] = &["--log-file", "--pid-file"];
    let mut value_follows = false;
    let mut command_seen = false;
    typed.filter(move |argument| {
        if std::mem::take(&mut value_follows) {
            return false;
        }
        let text = argument.to_string_lossy();
        if OWN.contains(&text.as_ref()) {
            value_follows = true;
            return false;
        }
        let is_command = !command_seen && text == "start";
        command_seen |= is_command;
        !is_command && !OWN.iter().any(|own| text.starts_with(&format!("{own}=")))
    })
}

/// A program in the background has no terminal that could take it along when it closes.
pub(super) fn leave_terminal() {
    if std::env::var_os(BACKGROUND).is_some() {
        // fails for the leader of a group, which has its own already
        let _ = rustix::process::setsid();
    }
}

// === stop ===

/// Asks the program in the background to stop, and waits until it has.
pub(crate) fn stop(options: &Stop) -> u8 {
    let pid_file = pid_file(options.pid_file.as_deref());
    let file = pid_file.display();
    let pid = match follow(&pid_file) {
        Ok(Lead::Runs(pid)) => pid,
        Ok(Lead::Gone(pid)) => {
            let _ = std::fs::remove_file(&pid_file);
            eprintln!(
                "trunkline: not running: process {pid} of {file} is gone; the file was removed"
            );
            return NOT_RUNNING;
        }
        Ok(Lead::Other(pid, name)) => {
            eprintln!(
                "trunkline: not running: process {pid} of {file} is `{name}`, which is left alone"
            );
            return NOT_RUNNING;
        }
        Ok(Lead::Nowhere) => {
            eprintln!(
                "trunkline: not running, or not started with `trunkline start`: there is no {file}"
            );
            return NOT_RUNNING;
        }
        Err(why) => {
            eprintln!("trunkline: {why}");
            return FAILED;
        }
    };
    match signal(pid, Signal::TERM) {
        Ok(()) => wait_for_end(pid),
        Err(why) => {
            eprintln!("trunkline: process {pid} cannot be told to stop: {why}");
            FAILED
        }
    }
}

fn wait_for_end(pid: u32) -> u8 {
    let waiting = progress::show("requests in flight");
    while is_alive(pid) {
        std::thread::sleep(LOOK);
    }
    drop(waiting);
    println!("trunkline has stopped");
    OK
}

fn signal(pid: u32, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or("it is no process id")?;
    rustix::process::kill_process(pid, signal).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_behind_start_is_what_run_gets() {
        let of = |typed: &[&str]| -> Vec<String> {
            let typed = typed.iter().map(std::ffi::OsString::from);
            let kept = arguments_of_run(typed);
            kept.map(|kept| kept.to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(of(&["start"]), [""; 0]);
        let typed = [
            "start",
            "-c",
            "start",
            "--log-file",
            "x",
            "--pid-file=y",
            "--log",
            "debug",
        ];
        assert_eq!(of(&typed), ["-c", "start", "--log", "debug"]);
    }

    #[test]
    fn a_process_of_another_program_is_not_ours() {
        assert!(is_alive(1) && !is_one_of_us(1));
        assert!(is_one_of_us(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
