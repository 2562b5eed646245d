# frozen_string_literal: true

require_relative 'support'
require 'json'
require 'open3'
require 'ratoon/preload'

# `ratoon-preload` against a stand-in for the master, which is a subreaper and knows a worker by the kernel's word.
class PreloadTest < Minitest::Test
  PROGRAM = File.expand_path('../exe/ratoon-preload', __dir__)
  PR_SET_CHILD_SUBREAPER = 36
  PRCTL = { 'x86_64' => 157, 'aarch64' => 167 }.freeze

  APP = <<~RUBY
    require 'ratoon/preload'
    LOADED = Process.pid
    HOOKS = []
    FILE = File.open(__FILE__)
    Ratoon::Preload.before_fork { HOOKS << ['before', Process.pid] }
    Ratoon::Preload.after_fork { HOOKS << ['after', Process.pid] }
  RUBY

  SCRIPT = <<~RUBY
    #!/usr/bin/env ruby
    require 'json'
    require './app'
    files = Dir.children('/proc/self/fd').map(&:to_i).select { |number| number < 67 }.sort
    puts JSON.generate(loaded: LOADED, pid: Process.pid, parent: Process.ppid, session: Process.getsid, argv: ARGV, name: $0 == __FILE__,
                       hooks: HOOKS, environ: ENV.to_h, files: files, listens: File.readlink('/proc/self/fd/3'))
    $stdout.flush
    exit 5
  RUBY

  def setup
    skip_reason = PRCTL[RbConfig::CONFIG['host_cpu']]
    flunk 'prctl(2) has no number here' unless skip_reason
    before, $VERBOSE = $VERBOSE, nil
    syscall(skip_reason, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  ensure
    $VERBOSE = before
  end

  # A running preload process.
  class Master
    attr_reader :channel, :notify, :pid, :directory, :announced

    def initialize(words, app)
      @directory = Dir.mktmpdir('ratoon-preload-')
      { 'app.rb' => app, 'server' => SCRIPT }.each { |name, text| File.write(File.join(@directory, name), text) }
      @notify = Socket.new(:UNIX, :DGRAM)
      @notify.bind(Addrinfo.unix(File.join(@directory, 'notify')))
      @channel, theirs = UNIXSocket.pair(:SEQPACKET)
      @channel.setsockopt(:SOCKET, :PASSCRED, true)
      @announced = {}
      environment = { 'RUBYLIB' => Worker::LIBRARY, 'RATOON_FORK' => '3', 'JOURNAL_STREAM' => '1:2',
                      'NOTIFY_SOCKET' => File.join(@directory, 'notify') }
      @pid = spawn(environment, RbConfig.ruby, PROGRAM, *words, chdir: @directory, pgroup: true, 3 => theirs,
                   %i[out err] => File.join(@directory, 'log'))
      theirs.close
    end

    # Sends a request; returns the reading end of the worker's output.
    def ask(worker, argv = %w[server --port 1], program = File.join(@directory, 'server'))
      output, write = IO.pipe
      listener = TCPServer.new('127.0.0.1', 0)
      fields = ['ratoon-fork=1', "id=#{worker}", "master=#{Process.pid}", 'later=unknown', "program=#{program}"]
      fields += argv.map { |word| "arg=#{word}" }
      fields += %w[unset=RATOON_FORK unset=JOURNAL_STREAM env=LISTEN_FDS=1 env=NOTIFY_SOCKET=/its/own]
      fields += %w[fd=stdin fd=stdout fd=stderr fd=listener]
      null = File.open(File::NULL)
      @channel.sendmsg("#{fields.join("\0")}\0", 0, nil, Socket::AncillaryData.unix_rights(null, write, write, listener))
      [null, write, listener].each(&:close)
      output
    end

    # The next outcome, and the pid of its sender by the kernel's word. The process is announced before.
    def reply
      loop do
        raise 'no reply' unless @channel.wait_readable(Worker::DEADLINE)

        message, _, _, control = @channel.recvmsg(256)
        pid = control.data.unpack1('l')
        worker, child = message[/\0forked=(\d+)\0pid=(\d+)\0/] && [Regexp.last_match(1), Regexp.last_match(2)].map(&:to_i)
        return [message, pid] unless worker

        @announced[worker] = child
      end
    end

    # The exit status of the process itself.
    def exit_status
      Worker.until("the preload process ends: #{log}") { @status ||= Process.wait2(@pid, Process::WNOHANG)&.last }
    end

    def ready
      raise "no notification: #{log}" unless @notify.wait_readable(Worker::DEADLINE)

      @notify.recv(100)
    end

    def log
      File.read(File.join(@directory, 'log'))
    end

    def end
      @channel.close unless @channel.closed?
      Process.kill('KILL', -@pid)
    rescue Errno::ESRCH
      nil
    ensure
      exit_status
      @notify.close
      FileUtils.rm_rf(@directory)
    end
  end

  def with_master(*words, app: APP)
    master = Master.new(words.empty? ? %w[-r ./app] : words, app)
    yield master
  ensure
    master&.end
  end

  def test_worker_is_a_child_of_the_master_and_runs_the_command
    with_master do |master|
      assert_equal 'READY=1', master.ready
      output = master.ask(7)
      message, pid = master.reply
      assert_equal ["ratoon-fork=1\0confirmed=7\0", { 7 => pid }], [message, master.announced]
      facts = JSON.parse(output.read)
      assert_equal [pid, Process.pid, pid, master.pid], facts.values_at('pid', 'parent', 'session', 'loaded')
      assert_equal [%w[--port 1], true], facts.values_at('argv', 'name')
      assert_equal [['before', master.pid], ['after', pid]], facts['hooks']
      assert_equal [pid.to_s, '/its/own', nil, nil], facts['environ'].values_at('LISTEN_PID', 'NOTIFY_SOCKET', 'RATOON_FORK', 'JOURNAL_STREAM')
      # The file that the application has opened is above the kept numbers; the directory that is read may have the first free one.
      assert_equal [0, 1, 2, 3], facts['files'] - [4]
      assert_match(/\Asocket:/, facts['listens'])
      assert_equal 5, Process.wait2(pid).last.exitstatus
    end
  end

  def test_each_request_is_one_worker
    with_master do |master|
      outputs = [1, 2, 3].map { |worker| master.ask(worker) }
      replies = outputs.map { master.reply }
      # The workers run at once, so they confirm in any order.
      assert_equal [1, 2, 3], replies.map { |message, _| message[/confirmed=(\d+)/, 1].to_i }.sort
      outputs.each(&:read)
      replies.each { |_, pid| assert_equal 5, Process.wait2(pid).last.exitstatus }
    end
  end

  def test_end_of_the_socket_ends_the_process
    with_master do |master|
      master.ready
      master.channel.close
      assert_equal 0, master.exit_status.exitstatus
    end
  end

  def test_error_while_loading_is_told_by_the_exit_status
    with_master(app: "raise KeyError, 'DATABASE_URL'") do |master|
      assert_equal 1, master.exit_status.exitstatus
      assert_includes master.log, 'DATABASE_URL'
    end
  end

  def test_commands_of_ruby_are_run
    with_master do |master|
      File.write(File.join(master.directory, 'tool.rb'), "puts [defined?(Set).nil?, ARGV].inspect\n")
      File.write(File.join(master.directory, 'found'), "#!/usr/bin/env ruby\nputs [:found, ARGV].inspect\n")
      File.chmod(0o755, File.join(master.directory, 'found'))
      [[%w[ruby -r set tool.rb x], '[false, ["x"]]'], [%W[bundle exec #{master.directory}/found y], '[:found, ["y"]]']].each do |argv, said|
        output = master.ask(1, argv, '/usr/bin/any')
        _, pid = master.reply
        assert_equal said, output.read.strip
        assert_predicate Process.wait2(pid).last, :success?
      end
    end
  end

  # A gem with a program, and what RubyGems generates for it. Its library has the name of one of a known server.
  def install_served(directory, library)
    specification = "Gem::Specification.new { |it| it.name, it.version, it.summary, it.authors = 'served', '1.0', 's', ['a']\n" \
                    "it.executables, it.bindir, it.files = ['served'], 'bin', [] }"
    { 'specifications/served-1.0.gemspec' => specification, 'gems/served-1.0/lib/puma/cli.rb' => library,
      'gems/served-1.0/lib/unknown.rb' => 'UNKNOWN_BY = Process.pid',
      'gems/served-1.0/bin/served' => "#!/usr/bin/env ruby\nrequire 'puma/cli'\nrequire 'unknown'\n" \
                                      "puts [LOADED_BY, UNKNOWN_BY == Process.pid, $0, ARGV].inspect\n",
      'served' => "#!/usr/bin/ruby\nrequire 'rubygems'\nversion = '>= 0.a'\nload Gem.activate_bin_path('served', 'served', version)\n",
      'bundled' => "#!/usr/bin/env ruby\nload Gem.bin_path(\"served\", \"served\")\n" }
      .each do |name, text|
      path = File.join(directory, name)
      FileUtils.mkdir_p(File.dirname(path))
      File.write(path, text)
    end
    File.chmod(0o755, File.join(directory, 'served'))
  end

  GEMS_HERE = "Gem.paths = { 'GEM_HOME' => Dir.pwd, 'GEM_PATH' => Dir.pwd }\n"

  def test_program_of_a_gem_is_resolved_and_required_once
    [%w[served x], %w[bundle exec ./served x], %w[bundled x]].each do |argv|
      with_master(app: GEMS_HERE) do |master|
        install_served(master.directory, 'LOADED_BY = Process.pid')
        program = File.join(master.directory, argv.include?('bundled') ? 'bundled' : 'served')
        output = master.ask(1, argv, program)
        _, pid = master.reply
        assert_equal [master.pid, true, program, ['x']].inspect, output.read.strip
        assert_predicate Process.wait2(pid).last, :success?
      end
    end
  end

  def test_library_that_fails_is_the_failure_of_the_worker
    with_master(app: GEMS_HERE) do |master|
      install_served(master.directory, "raise 'no database'")
      output = master.ask(1, %w[served], File.join(master.directory, 'served'))
      message, pid = master.reply
      assert_includes message, 'confirmed=1'
      assert_includes output.read, 'no database'
      assert_equal 1, Process.wait2(pid).last.exitstatus
    end
  end

  def test_commands_that_are_not_of_ruby_are_refused
    with_master do |master|
      [[%w[sleep 1], '/bin/sleep', 'is no program of Ruby'], [%w[ruby --yjit x.rb], '/usr/bin/ruby', 'write it into worker.preload'],
       [%w[bundle install], '/usr/bin/bundle', 'only `exec PROGRAM`']].each do |argv, program, told|
        output = master.ask(1, argv, program)
        _, pid = master.reply
        assert_includes output.read, told
        assert_equal 1, Process.wait2(pid).last.exitstatus
      end
    end
  end

  def test_request_that_cannot_be_read_ends_the_process
    with_master do |master|
      master.ready
      master.channel.send("ratoon-fork=2\0id=1\0", 0)
      assert_equal 0, master.exit_status.exitstatus
      assert_includes master.log, 'another version'
    end
  end

  def test_without_a_master_it_says_so
    text, status = Open3.capture2e({ 'RATOON_FORK' => nil }, RbConfig.ruby, PROGRAM, '-r', 'set')
    assert_equal 1, status.exitstatus
    assert_includes text, 'RATOON_FORK is not set'
  end

  HEAD = "ratoon-fork=1\0id=7\0master=1\0program=/p\0arg=p\0"

  def test_request_is_read
    request = Ratoon::Preload::Request.new("#{HEAD}arg=q\0unset=A\0env=B=c=d\0env=E=\0fd=stdin\0fd=listener\0new=x\0")
    assert_equal [7, 1, '/p', %w[p q]], [request.worker, request.master, request.program, request.argv]
    assert_equal [%w[A], [['B', 'c=d'], ['E', '']], %w[stdin listener]], [request.unset, request.environment, request.roles]
  end

  def test_hostile_requests_are_errors
    ['', "\0", "id=7\0", HEAD.chop, HEAD.sub('fork=1', 'fork=2'), HEAD.sub('id=7', 'id=x'), HEAD.sub("master=1\0", ''),
     HEAD.sub("arg=p\0", ''), HEAD.sub("program=/p\0", ''), "#{HEAD}env==x\0", "#{HEAD}fd=nonsense\0"].each do |message|
      assert_raises(ArgumentError, message.inspect) { Ratoon::Preload::Request.new(message) }
    end
  end
end
