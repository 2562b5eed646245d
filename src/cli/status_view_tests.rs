use super::*;
use crate::status::tree::LastReload;

#[test]
fn unlisted_connections_are_told() {
    let mut document = busy();
    let shown = |document: &Document| view(document, &clock(), &screen(None));
    assert!(!shown(&document).contains("no room on the workers' pages"));
    document.workers[0].unlisted_connections = Some(1_100);
    document.workers[1].unlisted_connections = Some(100);
    assert!(
        shown(&document).contains("unlisted 1200 more connections have no room on the workers' pages"),
        "{}",
        shown(&document)
    );
}

#[test]
fn release_is_named_and_told_when_the_path_has_moved() {
    let mut document = small();
    let shown = |document: &Document| view(document, &clock(), &screen(None));
    let release =
        CurrentRelease { program: "/srv/web/7/app".to_owned(), directory: "/srv/web/7".to_owned(), ..Default::default() };
    document.release = Some(release.clone());
    assert!(shown(&document).contains("\n  release  /srv/web/7/app in /srv/web/7\n"), "{}", shown(&document));
    let committed_at = Some("2026-07-14T12:00:00.000000Z".to_owned());
    document.release = Some(CurrentRelease { path_leads_elsewhere: Some(true), committed_at, ..release });
    assert!(shown(&document).contains("in /srv/web/7 since 2026-07-14 14:00:00; the path leads to another release now\n"));
}

#[test]
fn printed_lines_are_led_by_the_error_or_the_first_lines() {
    let lines = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    let (head, tail) = (lines(0..10), lines(80..100));
    assert_eq!(printed(Some("KeyError"), &head, &tail, 4), ["KeyError", "| 96", "| 97", "| 98", "| 99"]);
    assert_eq!(printed(Some("99"), &head, &tail, 2), ["| 98", "| 99"], "a line that is shown is not shown twice");
    assert_eq!(printed(None, &head, &tail, 4), ["| 0", "| 1", "| …", "| 98", "| 99"]);
    assert_eq!(printed(None, &[], &lines(0..2), 4), ["| 0", "| 1"]);
}

fn clock() -> Clock {
    Clock { now: "2026-07-14T12:00:00Z".parse().unwrap(), zone: TimeZone::fixed(jiff::tz::offset(2)) }
}

fn screen(width: Option<usize>) -> Screen {
    Screen { width, height: None, colour: false }
}

fn busy() -> Document {
    serde_json::from_str(include_str!("recorded/busy.json")).unwrap()
}

fn small() -> Document {
    serde_json::from_str(include_str!("recorded/small.json")).unwrap()
}

#[test]
fn a_busy_pool() {
    insta::assert_snapshot!(view(&busy(), &clock(), &screen(None)), @r##"
    web reloading, degraded, generation 7, 2/2 ready
      status   reloading to generation 8: 1/2 ready
      since    2026-07-12 10:00:00 (2d 3h), 3 workers have failed
      reload   2026-07-14 13:40:00 to generation 7 rolled back after 1.2 s: worker 9 (slot 1): exit 1
      master   pid 4242, version 0.1.0, memory 2.0M, cpu 1.5 s, up 2d 4h
      served   1204 connections, 4.1M requests, 50M read, 68G written, jobs 17.5, mails 3

    SLOT  ID   PID  GEN  STATE                       UP  MEM     CPU  CONNS  REQS  STATUS
       0   5  5001    7  ready                    3h 0m  50M   1m 1s     12  2.1M  warm
       0  11  6001    8  starting                 1.0 s    -       -      -     -
       1   6  5002    6  draining, still listens  1d 0h  10M  500 ms      1    99  \u{1b}[31mévil\u{202e} 日本 line
       1  12     -    8  starting                  0 ms    -       -      -     -

    FD  SOCKET  ADDRESS        QUEUE   MAX
     3  http    0.0.0.0:8080       0  4096
     4  admin   /run/web.sock      5     5
     5  dns     [::]:53/udp        -     -

    LAST FAILURES (3 of 4; --json has all)
    2026-07-14 13:40:01 worker 9 (slot 1, generation 7): exit 1
        | three
        | four
        | Traceback (most recent call last):
        |   File "app.py", line 3
        | KeyError: 'DATABASE_URL'
    2026-07-14 13:39:00 worker 7 (slot 1, generation 7): signal SIGSEGV (core dumped)
        status: serving
        while serving GET /report/17 for 4.0 s
        | GET /report/17
    2026-07-12 10:00:02 worker 2 (slot 1, generation 1): exec: No such file or directory
        hint: the program is there, but what runs it is not: the interpreter in its first line (#!), or the loader that an executable names (`file` shows it)
    "##);
}

#[test]
fn a_small_pool() {
    insta::assert_snapshot!(view(&small(), &clock(), &screen(None)), @r##"
    api running, generation 1, 1/1 ready
      status   generation 1: 1/1 ready
      since    2026-07-14 13:59:58 (2.0 s), no worker has failed
      master   pid 77, version 0.1.0, up 2.0 s

    SLOT  ID  PID  GEN  STATE     UP   MEM    CPU  CONNS  REQS  STATUS
       0   1   78    1  ready  2.0 s  1.0M  20 ms      0     -
    "##);
}

#[test]
fn first_line_is_an_alarm_when_nobody_serves() {
    let down = Document { workers_ready: 0, degraded: true, ..small() };
    let coloured = view(&down, &clock(), &Screen { width: None, height: None, colour: true });
    let first = "api DOWN (running, degraded), generation 1, 0/1 ready";
    assert_eq!(coloured.lines().next(), Some(&*format!("\x1b[1;37;41m{first}\x1b[0m")));
    assert_eq!(view(&down, &clock(), &screen(None)).lines().next(), Some(first));
    for calm in [Document { paused: true, ..down.clone() }, Document { state: "stopping".into(), ..down }] {
        assert!(!view(&calm, &clock(), &screen(None)).contains("DOWN"));
    }
}

#[test]
fn reason_of_a_reload_is_told_once_and_whole() {
    let reason = "worker 9 (slot 1): exit 1 before it was ready, as its database does not answer at db1.example.org";
    let mut document = small();
    document.status_text = format!("generation 1: 1/1 ready; reload to generation 2 rolled back: {reason}");
    document.last_reload = busy().last_reload.map(|last| LastReload { reason: reason.into(), ..last });
    for width in [None, Some(60)] {
        let shown = view(&document, &clock(), &screen(width));
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words.matches(reason).count(), 1, "{shown}");
    }
    document.status_text = "generation 1: 1/1 ready".into();
    let words = view(&document, &clock(), &screen(Some(60))).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(reason), "{words}");
}

#[test]
fn an_empty_document_of_a_strange_master_is_shown_too() {
    assert!(view(&Document::default(), &clock(), &screen(None)).contains("generation 0, 0/0 ready"));
}

#[test]
fn no_line_is_wider_than_the_screen() {
    let words = view(&busy(), &clock(), &screen(Some(80))).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.ends_with("an executable names (`file` shows it)"), "a hint is shown whole: {words}");
    for width in [1, 10, 40, 80] {
        for line in view(&busy(), &clock(), &screen(Some(width))).lines().skip(1) {
            assert!(crate::cli::screen::width(line) <= width, "{width}: {line:?}");
        }
    }
}

#[test]
fn a_large_pool_has_room_on_a_terminal() {
    let worker = |id| Worker { id, slot: id as u32, generation: 7, state: "ready".into(), ..Worker::default() };
    let mut document = Document { workers: (0..1000).map(worker).collect(), ..busy() };
    document.workers[500].state = "starting".into();
    document.workers[700].generation = 6;
    document.workers[700].state = "draining".into();
    let screen = |height| Screen { width: Some(80), height: Some(height), colour: false };
    let text = view(&document, &clock(), &screen(40));
    // One line is left for the prompt.
    assert_eq!(text.lines().count(), 39, "{text}");
    for line in [" 500  500", " 700  700", "and 991 ready; `ratoon status web | less` has all", "LAST FAILURES", "   0    0"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    let tiny = view(&document, &clock(), &screen(5));
    assert!(tiny.contains(" 500  500") && tiny.contains(" 700  700") && tiny.contains("and 997 ready"), "{tiny}");
    document.workers.iter_mut().for_each(|worker| worker.state = "starting".into());
    assert!(view(&document, &clock(), &screen(5)).contains("and 997 starting;"));
    // All workers are shown without a limit of the screen, and where there is room.
    let all = view(&document, &clock(), &Screen { height: None, ..screen(0) });
    assert!(all.lines().count() > 1000 && !all.contains("| less"));
    document.workers.truncate(4);
    assert!(!view(&document, &clock(), &screen(5)).contains("| less"));
}

#[test]
fn colours_are_all_that_a_terminal_adds() {
    let coloured = view(&busy(), &clock(), &Screen { width: None, height: None, colour: true });
    assert!(coloured.contains("\x1b[31mreloading, degraded\x1b[0m"), "{coloured}");
    let mut plain = coloured;
    for code in ["0", "1", "2", "31", "32", "33"] {
        plain = plain.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(plain, view(&busy(), &clock(), &screen(None)));
}
