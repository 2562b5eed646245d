//! The other end of the seam: a loop that answers documents by itself and hands everything asked to the test.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ratoon::api::changes::ChangeFeed;
use ratoon::api::{Backend, Command, Handle, Reply, Request, RequesterId, Summary, WorkerView, channel};
use ratoon::control::http::{Listener, serve_control, serve_status};
use ratoon::pool::{Phase, PoolState};
use ratoon::status::tree::Document;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Every wait in these tests ends by then, and the test with it. Longer than the front keeps an idle connection.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Something was asked.
pub struct Asked {
    pub requester: RequesterId,
    pub ask: Request,
    pub reply: Option<oneshot::Sender<Reply>>,
}

/// A control socket with a loop behind it.
pub struct Fake {
    pub directory: TempDir,
    pub control: PathBuf,
    pub handle: Handle,
    pub asked: mpsc::UnboundedReceiver<Asked>,
    pub gone: mpsc::UnboundedReceiver<RequesterId>,
    pub summary: watch::Sender<Summary>,
    pub changes: ChangeFeed,
    pub document: Arc<Mutex<Document>>,
    tasks: JoinSet<()>,
}

pub fn summary() -> Summary {
    Summary {
        instance: "web".into(),
        state: PoolState::Running,
        degraded: false,
        paused: false,
        idle: false,
        last_wake: None,
        status_text: "generation 7: 4/4 ready".into(),
        generation: 7,
        workers_configured: 4,
        workers_ready: 4,
        workers_min: 4,
        workers_max: 4,
        at_max: false,
        crashes: 2,
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_784_030_000),
        last_reload: None,
        canary: None,
    }
}

pub fn worker(id: u64, slot: u32, generation: u64, state: Phase) -> WorkerView {
    WorkerView {
        id,
        slot,
        generation,
        pid: 4000 + u32::try_from(id).unwrap(),
        state,
        status_text: "".into(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_784_030_000),
    }
}

impl Fake {
    /// Serves as the control socket of an instance of this process's own user.
    pub fn start() -> Fake {
        Fake::start_for(rustix::process::geteuid().as_raw())
    }

    /// Serves as the control socket of an instance of the user `uid`.
    pub fn start_for(uid: u32) -> Fake {
        Fake::start_in(tempfile::tempdir().unwrap(), uid)
    }

    /// Goes away without a word; its place is left, and its socket is not served.
    pub async fn end(mut self) -> TempDir {
        self.tasks.shutdown().await;
        self.directory
    }

    /// Another master, where one has ended.
    pub fn start_again(directory: TempDir) -> Fake {
        std::fs::remove_file(directory.path().join("control")).unwrap();
        Fake::start_in(directory, rustix::process::geteuid().as_raw())
    }

    fn start_in(directory: TempDir, uid: u32) -> Fake {
        let control = directory.path().join("control");
        let listener = UnixListener::bind(&control).unwrap();
        let (handle, ends) = channel(summary());
        let Backend { commands, summary, changes } = ends;
        let (asked_in, asked) = mpsc::unbounded_channel();
        let (gone_in, gone) = mpsc::unbounded_channel();
        let document = Arc::new(Mutex::new(Document { instance: "web".into(), workers_ready: 4, ..Document::default() }));
        let mut tasks = JoinSet::new();
        tasks.spawn(turn(commands, asked_in, gone_in, Arc::clone(&document)));
        tasks.spawn(serve_control(listener, handle.clone(), uid));
        Fake { directory, control, handle, asked, gone, summary, changes, document, tasks }
    }

    /// Serves reads on a port too; gives the port.
    pub async fn start_status(&mut self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        self.tasks.spawn(serve_status(Listener::Tcp(listener), self.handle.clone()));
        port
    }

    /// The next thing that is asked.
    pub async fn next_ask(&mut self) -> Asked {
        within(self.asked.recv()).await.expect("the front still runs")
    }

    /// The next requester that is reported as gone.
    pub async fn next_gone(&mut self) -> RequesterId {
        within(self.gone.recv()).await.expect("the front still runs")
    }

    pub async fn connect(&self) -> UnixStream {
        within(UnixStream::connect(&self.control)).await.unwrap()
    }

    /// Sends bytes on a new connection and reads all that comes until it is closed.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    /// One request whose connection is closed after the answer; gives status and body.
    pub async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let text = self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (status, _, body) = split(&text);
        (status, body)
    }
}

async fn turn(
    mut commands: mpsc::UnboundedReceiver<Command>,
    asked: mpsc::UnboundedSender<Asked>,
    gone: mpsc::UnboundedSender<RequesterId>,
    document: Arc<Mutex<Document>>,
) {
    while let Some(command) = commands.recv().await {
        // A test that does not look at what is asked has dropped the other end.
        match command {
            Command::Request { requester, request: ask, reply, .. } => drop(asked.send(Asked { requester, ask, reply })),
            Command::Gone(requester) => drop(gone.send(requester)),
            Command::Document(reply) => drop(reply.send(Arc::new(document.lock().unwrap().clone().into()))),
            Command::Workers(reply) => drop(reply.send(vec![worker(1, 0, 7, Phase::Ready)])),
            Command::History(reply) => _ = reply.send(Vec::new()),
        }
    }
}

/// Fails the test when it takes too long.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("within the deadline")
}

pub async fn read_all(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    within(stream.read_to_end(&mut text)).await.unwrap();
    String::from_utf8(text).unwrap()
}

/// Status, head in small letters, body.
pub fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an HTTP answer, not {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}
