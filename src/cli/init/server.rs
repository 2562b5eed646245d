//! Settings for known servers, with which their readiness and their drain can be relied on.
//!
//! Law: each setting has a comment that says why. An unknown program gets none, and what the user named on the command line stays.

use std::path::Path;

/// Lines of the configuration for a known server.
#[derive(Debug, Default)]
pub(super) struct Advice {
    /// The command, with the options that the server needs.
    pub(super) command: Vec<String>,
    /// Lines of the table `[worker]`.
    pub(super) worker: String,
    /// The value of `reload.check`, and why.
    pub(super) check: Option<(Vec<String>, &'static str)>,
}

/// A recognised server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Gunicorn,
    /// uvicorn, hypercorn.
    Asgi,
    /// Puma, also behind `rails server` and `rackup`.
    Puma,
    Unicorn,
    Node,
    PhpFpm,
    Nginx,
    Java,
}

impl Server {
    /// The server that a command starts, and the number of words before the server's own arguments.
    fn of(command: &[String]) -> Option<(Server, usize)> {
        let word = |at: usize| command.get(at).map_or("", String::as_str);
        let name = |at: usize| Path::new(word(at)).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let by_name = |name: &str| {
            Some(match name {
                "gunicorn" => Server::Gunicorn,
                "uvicorn" | "hypercorn" => Server::Asgi,
                "puma" | "rackup" => Server::Puma,
                "unicorn" | "unicorn_rails" => Server::Unicorn,
                "node" | "nodejs" | "npm" | "npx" | "yarn" | "pnpm" => Server::Node,
                "nginx" => Server::Nginx,
                "java" => Server::Java,
                _ if name.starts_with("php-fpm") => Server::PhpFpm,
                _ => return None,
            })
        };
        if name(0).starts_with("python") && word(1) == "-m" {
            return by_name(word(2)).map(|server| (server, 3));
        }
        let at = if name(0) == "bundle" && word(1) == "exec" { 2 } else { 0 };
        if name(at) == "rails" && matches!(word(at + 1), "server" | "s") {
            return Some((Server::Puma, at + 2));
        }
        by_name(name(at)).map(|server| (server, at + 1))
    }
}

/// The settings for the server that this command starts; `None` for an unknown one. `listen` is the first address, `directory` that of the
/// workers.
pub(super) fn advice(command: &[String], directory: &Path, listen: &str) -> Option<Advice> {
    let (server, own) = Server::of(command)?;
    let mut advice = Advice { command: command.to_vec(), ..Advice::default() };
    let has = |words: &[&str]| {
        let is = |argument: &String, word: &&str| argument == word || argument.starts_with(&format!("{word}="));
        command[own..].iter().any(|argument| words.iter().any(|word| is(argument, word)))
    };
    // A check runs the same program with another option before the server's own arguments.
    let with = |option: &str| [&command[..own], &[option.to_owned()], &command[own..]].concat();
    advice.worker = match server {
        Server::Gunicorn => {
            advice.check = Some((with("--check-config"), "Loads the application before a worker is started: a broken release costs nothing."));
            let configured = has(&["-c", "--config"]) || directory.join("gunicorn.conf.py").exists();
            let text = if configured {
                if !has(&["--preload"]) {
                    advice.command.insert(own, "--preload".to_owned());
                }
                "# --preload: gunicorn says READY=1 before it has loaded the application, unless it loads it first. With\n\
                 # `from ratoon.gunicorn import *` in its configuration, and adapter = \"asgi\", it drains its kept connections, too.\n"
            } else {
                "# gunicorn says READY=1 before it has loaded the application. With the adapter it says so afterwards.\n\
                 adapter = \"asgi\"\n"
            };
            let workers = "# A worker is one gunicorn with one worker process: count takes the place of --workers, threads are --threads.\n";
            text.to_owned() + workers
        }
        Server::Asgi => "# The adapter says READY=1 after the application's startup, and drains kept connections, which the server itself closes\n\
                         # under requests that are on their way. count takes the place of --workers.\n\
                         adapter = \"asgi\"\n"
            .to_owned(),
        Server::Puma => "# The adapter gives Puma the socket, says READY=1 when the application is loaded, and drains kept connections. count takes\n\
                         # the place of `workers` and WEB_CONCURRENCY.\n\
                         adapter = \"rack\"\n\
                         # An application that boots longer than this is taken for one that hangs.\n\
                         start_timeout = \"1min\"\n"
            .to_owned(),
        Server::Unicorn => "# unicorn cuts requests off at SIGTERM.\n\
                            stop_signal = \"SIGQUIT\"\n\
                            # Its configuration needs `preload_app true`: else it is only a forked process that finds that the application cannot be\n\
                            # loaded, again and again. `worker_processes 1`: count takes the place of it.\n"
            .to_owned(),
        Server::Node => {
            if let [program, script] = command
                && [".js", ".cjs", ".mjs"].iter().any(|ending| script.ends_with(ending))
            {
                let check = vec![program.clone(), "--check".to_owned(), script.clone()];
                advice.check = Some((check, "Reads the program without running it: what is no JavaScript costs nothing."));
            }
            "# app.listen() takes the socket, says READY=1, and drains kept connections, which Node.js itself closes under requests that\n\
             # are on their way: \"auto\" does so for Node.js.\n\
             adapter = \"auto\"\n"
                .to_owned()
        }
        Server::PhpFpm => {
            if !has(&["-F", "--nodaemonize"]) {
                advice.command.insert(own, "--nodaemonize".to_owned());
            }
            advice.check = Some((with("--test"), "Reads PHP-FPM's configuration before a worker is started."));
            format!(
                "# PHP-FPM takes descriptor 3 for `listen = {listen}` of its pool.\n\
                 environment = {{ FPM_SOCKETS = \"{listen}=3\" }}\n\
                 # Its graceful end, which waits for requests only with `process_control_timeout = 15s` in its configuration.\n\
                 stop_signal = \"SIGQUIT\"\n"
            )
        }
        Server::Nginx => {
            if !has(&["-g"]) {
                advice.command.extend(["-g", "daemon off;"].map(str::to_owned));
            }
            advice.check = Some((with("-t"), "Reads nginx's configuration before a worker is started."));
            format!(
                "# nginx binds its address itself. Where its configuration says `listen {listen};`, the adapter puts the socket there.\n\
                 adapter = \"bind\"\n\
                 # Its graceful end.\n\
                 stop_signal = \"SIGQUIT\"\n\
                 # The pid file is overwritten by each worker: with `pid run/$RATOON_WORKER.pid;` in -g, and none in its configuration, each\n\
                 # has its own.\n"
            )
        }
        Server::Java => format!(
            "# The Java VM binds its address itself. Where the program listens on {listen}, the adapter puts the socket there.\n\
             adapter = \"bind\"\n\
             # A program that starts longer than this is taken for one that hangs.\n\
             start_timeout = \"1min\"\n\
             # SIGTERM runs its shutdown hooks: let them end requests (Spring Boot: server.shutdown=graceful).\n"
        ),
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Adapter, Config};

    /// The configuration for a command, read as the master reads it.
    fn configured(command: &str) -> Config {
        configured_in(command, Path::new("/nowhere"))
    }

    fn configured_in(command: &str, directory: &Path) -> Config {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let text = super::super::files::configuration("web", &words, directory, "127.0.0.1:9000", None, None);
        config::parse(&text, Path::new("web.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn check(config: &Config) -> String {
        config.reload.check.as_ref().map(|words| words.join(" ")).unwrap_or_default()
    }

    #[test]
    fn gunicorn_is_ready_when_its_application_is_loaded() {
        let words = "venv/bin/gunicorn --threads 4 app:app".split(' ').map(str::to_owned).collect::<Vec<_>>();
        let text = super::super::files::configuration("web", &words, Path::new("/nowhere"), "[::]:80", None, None);
        let probed = config::parse(&text.replace("#probe", "probe"), Path::new("web.toml")).expect("a probe");
        assert!(probed.reload.probe.is_some(), "{text}");
        let config = configured("venv/bin/gunicorn --threads 4 app:app");
        assert_eq!(
            (config.worker.adapter, check(&config).as_str()),
            (Adapter::Asgi, "venv/bin/gunicorn --check-config --threads 4 app:app")
        );
        let config = configured("python3 -m gunicorn app:app");
        assert_eq!(check(&config), "python3 -m gunicorn --check-config app:app");
        let own = configured("gunicorn --config=web.py app:app");
        assert_eq!(
            (own.worker.adapter, own.worker.command.join(" ").as_str()),
            (Adapter::Auto, "gunicorn --preload --config=web.py app:app")
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gunicorn.conf.py"), "").unwrap();
        assert_eq!(
            configured_in("gunicorn --preload app:app", directory.path()).worker.command.join(" "),
            "gunicorn --preload app:app"
        );
    }

    #[test]
    fn uvicorn_and_hypercorn_have_their_adapter() {
        for command in ["uvicorn app:app", "/srv/venv/bin/hypercorn app:app", "python3 -m uvicorn app:app"] {
            let config = configured(command);
            assert_eq!((config.worker.adapter, config.worker.command.join(" ").as_str()), (Adapter::Asgi, command));
        }
    }

    #[test]
    fn puma_has_its_adapter_whoever_starts_it() {
        for command in ["puma", "bundle exec puma -C config/puma.rb", "bin/rails server", "bundle exec rails s"] {
            let config = configured(command);
            assert_eq!((config.worker.adapter, config.worker.start_timeout.as_secs()), (Adapter::Rack, 60), "{command}");
        }
        assert_eq!(configured("bin/rails runner x").worker.adapter, Adapter::Auto);
    }

    #[test]
    fn unicorn_is_stopped_gracefully() {
        assert_eq!(configured("bundle exec unicorn -c unicorn.rb").worker.stop_signal, libc::SIGQUIT);
    }

    #[test]
    fn node_is_checked_before_it_is_started() {
        let config = configured("node server.mjs");
        assert_eq!((config.worker.adapter, check(&config).as_str()), (Adapter::Auto, "node --check server.mjs"));
        assert_eq!(check(&configured("npm start")), "");
        assert_eq!(check(&configured("node --inspect server.js")), "");
    }

    #[test]
    fn php_fpm_takes_its_socket_and_stays_in_front() {
        let config = configured("php-fpm8.2 --fpm-config web.conf");
        assert_eq!(config.worker.command.join(" "), "php-fpm8.2 --nodaemonize --fpm-config web.conf");
        assert_eq!(config.worker.environment, [("FPM_SOCKETS".to_owned(), "127.0.0.1:9000=3".to_owned())]);
        assert_eq!(
            (config.worker.stop_signal, check(&config).as_str()),
            (libc::SIGQUIT, "php-fpm8.2 --test --fpm-config web.conf")
        );
        assert_eq!(configured("php-fpm -F").worker.command.join(" "), "php-fpm -F");
    }

    #[test]
    fn nginx_stays_in_front_and_is_checked() {
        let config = configured("nginx -c web.conf");
        assert_eq!(config.worker.command.join(" "), "nginx -c web.conf -g daemon off;");
        assert_eq!((config.worker.adapter, config.worker.stop_signal), (Adapter::Bind, libc::SIGQUIT));
        assert_eq!(check(&config), "nginx -t -c web.conf");
    }

    #[test]
    fn java_binds_by_its_adapter() {
        let config = configured("java -jar web.jar");
        assert_eq!((config.worker.adapter, config.worker.start_timeout.as_secs()), (Adapter::Bind, 60));
    }

    #[test]
    fn advice_is_none_for_others() {
        for command in ["./server", "nodemon", "python3 server.py", "bundle exec rake", "caddy run"] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert!(advice(&words, Path::new("/"), "").is_none(), "{command}");
        }
    }
}
