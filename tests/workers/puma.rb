# A configuration of Puma with its application. `--bind-to-activated-sockets=only` on the command line takes the sockets; the
# gem sd_notify, where it is installed, says READY=1.
threads 1, 4
environment 'production'
log_requests false
# By default Puma, when told to stop, closes connections that it accepted and that have not sent their request yet: a handful
# of lost requests at each reload under load. Without its reactor it answers them.
queue_requests false
app { |_env| [200, { 'Content-Type' => 'text/plain' }, ["pid #{Process.pid} generation #{ENV.fetch('RATOON_GENERATION')}"]] }
