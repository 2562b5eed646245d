//! Keys whose value is one of a few words.

use super::row::words;

words! {
    /// `worker.ready`: the condition on which a worker counts as ready.
    Ready {
        /// The worker said `READY=1` and accepts; or it accepts and was silent for `worker.settle`, if no worker of the committed
        /// generation said `READY=1`. Without listening sockets: the worker said `READY=1`.
        Auto = "auto",
        /// The worker accepts on the listening sockets.
        Accepting = "accepting",
        /// The worker said `READY=1`.
        Notify = "notify",
        /// The worker's exec succeeded, and the worker lived for `worker.settle`.
        Running = "running",
    }
}

words! {
    /// `worker.adapter`: what makes an unmodified server take the sockets, say `READY=1` and drain without loss.
    Adapter {
        /// `node` if the command is Node.js, else none.
        Auto = "auto",
        /// Node.js, by `NODE_OPTIONS`.
        Node = "node",
        /// Python: uvicorn, hypercorn, gunicorn.
        Asgi = "asgi",
        /// Ruby: Puma, by `RUBYOPT`.
        Rack = "rack",
        /// A program that binds its address itself, by `LD_PRELOAD`.
        Bind = "bind",
        /// None.
        None = "none",
    }
}

words! {
    /// `worker.stdin`: standard input of the workers.
    Stdin {
        /// `/dev/null`.
        Null = "null",
        /// The first listening socket.
        Socket = "socket",
    }
}

words! {
    /// `worker.balance`: how connections are spread over workers.
    Balance {
        /// All workers accept from one socket.
        Shared = "shared",
        /// A socket per slot (`SO_REUSEPORT`), held by the master.
        PerSlot = "per-slot",
    }
}

words! {
    /// `worker.cpus`: the CPUs that a worker may use.
    Cpus {
        /// All CPUs that the master may use.
        Off = "off",
        /// The CPUs of its slot: those that the master may use are divided among the slots.
        Auto = "auto",
    }
}

words! {
    /// `start.fallback`: what runs when the release on disk does not come up.
    Fallback {
        /// The newest recorded release.
        LastGood = "last-good",
        /// Nothing.
        None = "none",
    }
}

words! {
    /// `reload.memory`: what a reload does when a second generation would not fit into memory.
    MemoryCheck {
        /// Says so and goes on.
        Warn = "warn",
        /// Refuses.
        Refuse = "refuse",
        /// Does not look.
        Ignore = "ignore",
    }
}

words! {
    /// `status.details`: which readers see the details of the status document.
    Details {
        /// Those who may change the pool, the workers' user, and the groups adm and systemd-journal.
        Trusted = "trusted",
        /// All.
        Everyone = "everyone",
    }
}
