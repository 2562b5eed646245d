# Allocations with Ratoon as PID 1: docs/containers.md. Not checked by Nomad itself.
job "web" {
  group "web" {
    count = 2

    network {
      port "http" { to = 8080 }
      port "status" { to = 9101 }
    }

    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "5s"
      auto_revert      = true
    }

    service {
      name     = "web"
      port     = "http"
      provider = "nomad"

      # At least one worker is ready.
      check {
        type     = "http"
        path     = "/readyz"
        port     = "status"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "web" {
      driver = "docker"

      # The service is taken out of the catalogue first, so that balancers learn it before the workers drain.
      shutdown_delay = "5s"
      kill_signal    = "SIGTERM"
      # worker.stop_timeout (30s), and some for the master's own end. After that comes SIGKILL. A client allows 30s unless its max_kill_timeout is raised.
      kill_timeout = "40s"

      config {
        image           = "registry.example/web:1.0"
        ports           = ["http", "status"]
        readonly_rootfs = true
        cap_drop        = ["all"]
      }
    }
  }
}
