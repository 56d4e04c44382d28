//! `top`: intervals as JSON, as text, and on a terminal that is as before whichever way it ends.

use crate::harness::{Site, noise, wait_until};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};
use std::{
    ffi::CString,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// Reads the beginning of a volume again and again.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(control: &Path, volume: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let request =
            format!("GET /v1/data/{volume}?offset=0&length=4096 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (control, stopped) = (control.to_owned(), stop.clone());
        let read = move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut server = UnixStream::connect(&control).unwrap();
                server.write_all(request.as_bytes()).unwrap();
                let mut answer = Vec::new();
                server.read_to_end(&mut answer).unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            }
        };
        Self { stop, thread: Some(std::thread::spawn(read)) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn an_object_for_each_interval() {
    let mut site = Site::served();
    site.volume("db", &noise(1, 1 << 20));
    site.ok(&["volume", "create", "idle", "--size", "8MiB"]);
    site.ok(&["qos", "set", "db", "read_iops_sec=20"]);
    let reader = Reader::start(&site.path("main.pool.ctl"), "db");
    let text = site.ok(&["--json", "top", "--count", "2", "--sort", "read"]);
    reader.end();
    let intervals: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(intervals.len(), 2, "{text}");
    assert!(intervals[0]["time_ms"].as_u64() < intervals[1]["time_ms"].as_u64());
    for interval in &intervals {
        let names: Vec<&Value> = interval["volumes"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
        assert_eq!(names, ["db", "idle"], "{interval}");
        let (db, idle) = (&interval["volumes"][0], &interval["volumes"][1]);
        let (seconds, iops) = (interval["seconds"].as_f64().unwrap(), db["read"]["iops"].as_f64().unwrap());
        let reads = seconds * iops;
        assert!(reads > 0.9 && (reads - reads.round()).abs() < 1e-6, "a whole number of requests: {db}");
        // The limit is twenty a second; what may go at once is a small part of that.
        assert!(reads <= 20.0 * seconds + 5.0, "{interval}");
        let bytes = db["read"]["bytes_per_second"].as_f64().unwrap();
        assert!((bytes - iops * 4096.0).abs() < 1.0, "{db}");
        assert!(db["read"]["p99_ns"].as_u64().unwrap() > 0 && db["read"]["mean_ns"].as_u64().unwrap() > 0, "{db}");
        assert_eq!((&db["io"], &db["write"]["iops"], &db["size"]), (&db["read"], &json!(0.0), &json!(8 << 20)));
        assert_eq!((&idle["io"]["iops"], &idle["held"]), (&json!(0.0), &json!({})));
        assert_eq!(interval["total"]["read"], db["read"]);
        assert!(interval["pool"]["used"].as_u64().unwrap() >= 1 << 20, "{interval}");
        assert_eq!(
            (&interval["background"]["name"], &interval["background"]["scrub"]),
            (&json!("background"), &Value::Null)
        );
    }
    let held = &intervals[1]["volumes"][0]["held"]["volume:read_iops_sec"];
    assert!(held["requests"].as_u64().unwrap() > 0, "{intervals:?}");
    assert!((0.1..=1.0).contains(&held["share"].as_f64().unwrap()), "{held}");
    let text = site.ok(&["qos", "show", "db"]);
    assert!(text.lines().any(|line| line.starts_with("volume:read_iops_sec")), "{text}");
    site.stop_server();
}

#[test]
fn text_where_there_is_no_terminal() {
    let site = Site::served();
    site.ok(&["volume", "create", "db", "--size", "8MiB"]);
    let text = site.ok(&["top", "--count", "2", "--interval", "0.1"]);
    assert_eq!(text.lines().filter(|line| line.starts_with("VOLUME ")).count(), 2, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("db ") && line.ends_with("8 MiB")).count(), 2, "{text}");
    assert!(!text.contains('\x1b') && text.contains("\nbackground: ") && text.contains("\nspace: "), "{text}");

    // It ends when nobody reads it any more.
    let mut command = site.command(&["top", "--interval", "0.1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("main.pool"), "{line}");
    assert!(child.wait().unwrap().success());
}

/// A terminal of 100 columns, and all that was shown on it.
struct Terminal {
    name: CString,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 20, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keyboard = File::from(master);
        let (mut screen, all) = (keyboard.try_clone().unwrap(), shown.clone());
        drop(std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // Ends with an error when nobody holds the terminal any more.
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                all.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        }));
        Self { name, keyboard, shown }
    }

    fn open(&self) -> File {
        open(self.name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap().into()
    }

    fn start(&self, site: &Site, args: &[&str]) -> Child {
        let mut command = site.command(args);
        command.env("TERM", "xterm").stdin(self.open()).stdout(self.open()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }
}

#[test]
fn a_terminal_is_as_before_whichever_way_it_ends() {
    let mut site = Site::served();
    let name = format!("database-{}", "x".repeat(100));
    site.ok(&["volume", "create", &name, "--size", "8MiB"]);
    for way in ["q", "interrupt", "terminate", "count", "killed"] {
        let terminal = Terminal::new();
        let held = terminal.open();
        let before = tcgetattr(&held).unwrap();
        let count = if way == "count" { "3" } else { "1000000" };
        let mut child = terminal.start(&site, &["top", "--interval", "0.1", "--count", count]);
        wait_until(|| terminal.text().matches("VOLUME ").count() >= 2);
        let signal = |signal| kill_process(Pid::from_child(&child), signal).unwrap();
        match way {
            "q" => (&terminal.keyboard).write_all(b"xyzq").unwrap(),
            "interrupt" => signal(Signal::INT),
            "terminate" => signal(Signal::TERM),
            "count" => {}
            _ => site.kill_server(),
        }
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        let expected = if way == "killed" { 1 } else { 0 };
        assert_eq!(child.wait().unwrap().code(), Some(expected), "{way}: {error}");
        wait_until(|| terminal.text().ends_with("\x1b[?25h\x1b[?1049l"));
        let text = terminal.text();
        assert!(text.starts_with("\x1b[?1049h") && text.matches("\x1b[?1049l").count() == 1, "{way}: {text:?}");
        assert!(text.contains("database-x") && !text.contains(&name) && text.contains('…'), "{way}: {text:?}");
        let after = tcgetattr(&held).unwrap();
        assert_eq!(modes(&after), modes(&before), "{way}");
        assert_eq!(
            error.contains("lost the server") || error.contains("is not served"),
            way == "killed",
            "{way}: {error}"
        );
    }
}

fn modes(terminal: &Termios) -> String {
    format!("{:?} {:?}", terminal.local_modes, terminal.special_codes)
}
