# frozen_string_literal: true

require_relative 'support'
require 'ratoon'
require 'stringio'
require 'tempfile'

class ScoreboardTest < Minitest::Test
  def page(header = Worker.header)
    file = Tempfile.new('page', binmode: true)
    file.truncate(Worker::PAGE_BYTES)
    file.pwrite(header, 0)
    file
  end

  def test_page_of_another_version_is_refused
    error = assert_raises(ArgumentError) { Ratoon::Scoreboard.new(page(['RATOONSB', 2].pack('a8Q'))) }
    assert_includes error.message, 'no status page of version 1'
  end

  def test_page_with_a_writer_is_refused
    shared = page
    Ratoon::Scoreboard.new(shared)
    error = assert_raises(ArgumentError) { Ratoon::Scoreboard.new(shared) }
    assert_includes error.message, "written by process #{Process.pid}"
  end

  def test_request_without_a_slot_is_counted
    file = page
    board = Ratoon::Scoreboard.new(file)
    requests = Array.new(401) { board.request('GET', '/', 11, nil) }
    assert_equal [401, 0, 0, 400, 1, 7, 0, 1], file.pread(64, 17 * 8).unpack('Q8')
    requests.each { |request| request.end(200) }
    assert_equal [401, 0, 0, 400, 1, 7, 0, 0], file.pread(64, 17 * 8).unpack('Q8')
    assert_equal 0, file.pread(8, 4096).unpack1('Q')
  end

  def test_counters_beyond_32_are_not_shown
    file = page
    board = Ratoon::Scoreboard.new(file)
    40.times { |number| board.count("counter_#{number}", 2) }
    board.count('x' * 49)
    states = (0...32).map { |index| file.pread(16, 512 + index * 64).unpack('Q2') }
    assert_equal [[2, 2]], states.uniq
    assert_equal 0, file.pread(8, 512 + 32 * 64).unpack1('Q')
  end

  def test_addresses_are_in_network_order
    address = Ratoon::Scoreboard::Request.method(:address)
    assert_equal [4, [192, 0, 2, 1].pack('C4')], address.call('192.0.2.1')
    assert_equal [4, [192, 0, 2, 1].pack('C4')], address.call('::ffff:192.0.2.1')
    assert_equal [6, [0x20, 1, 0x0d, 0xb8]], [address.call('2001:db8::1%eth0')[0], address.call('2001:db8::1')[1].unpack('C4')]
    assert_equal [0, ''], address.call('unix')
    assert_equal [0, ''], address.call(nil)
  end

  def test_url_is_cut_at_240_bytes
    file = page
    Ratoon::Scoreboard.new(file).request('GET', "/#{'x' * 300}", 11, nil)
    assert_equal 240, file.pread(8, 4096 + 13 * 8).unpack1('Q') >> 32 & 0xffff
  end
end

class RackTest < Minitest::Test
  Shown = Struct.new(:ended, :left) do
    def end(status)
      self.ended = status || :error
    end

    def hijacked
      self.left = true
    end

    def sending; end

    def describe(_values); end
  end

  def call(env = {}, &app)
    shown = Shown.new
    middleware = Ratoon::Rack.new(app)
    middleware.define_singleton_method(:begin_request) { |_env| shown }
    env = { 'REQUEST_METHOD' => 'GET', 'PATH_INFO' => '/' }.merge(env)
    [shown, middleware.call(env), env]
  end

  def test_answer_is_counted_when_its_body_is_closed
    shown, (_, headers, body) = call { [201, {}, %w[first last]] }
    assert_equal ['9', nil], [headers['content-length'], shown.ended]
    assert_equal %w[first last], body.to_enum(:each).to_a
    body.close
    assert_equal [201, 0], [shown.ended, Ratoon::Rack.in_work]
  end

  def test_answer_that_is_not_taken_whole_is_an_error
    shown, (_, _, body) = call { [200, {}, %w[first last]] }
    body.each { |_| break }
    body.close
    assert_equal :error, shown.ended
  end

  def test_exception_of_the_application_is_an_error
    shown = nil
    assert_raises(RuntimeError) { call { |env| shown = env[Ratoon::KEY]; raise 'broken' } }
    assert_equal [:error, 0], [shown.ended, Ratoon::Rack.in_work]
  end

  def test_answer_to_head_has_no_body
    shown, (_, headers, body) = call({ 'REQUEST_METHOD' => 'HEAD' }) { [200, {}, []] }
    body.close
    assert_equal [{}, 200], [headers, shown.ended]
  end

  def test_file_that_the_server_sends_itself_is_whole
    file = StringIO.new('text')
    def file.to_path = '/nowhere'
    shown, (_, _, body) = call { [200, {}, file] }
    assert_equal ['/nowhere', false], [body.to_path, body.respond_to?(:to_ary)]
    body.close
    assert_equal 200, shown.ended
  end

  def test_hijacked_connection_is_no_answer
    shown, (_, _, body) = call { |env| env['rack.hijack_io'] = 1; [-1, {}, []] }
    body.close
    assert_equal [nil, true], [shown.ended, shown.left]
  end

  def test_second_middleware_does_nothing
    inner = Ratoon::Rack.new(->(_env) { [200, {}, ['x']] })
    _, (_, _, body) = call { |env| inner.call(env) }
    body.close
    assert_equal 0, Ratoon::Rack.in_work
  end
end

class EnvironmentTest < Minitest::Test
  RUBY = [RbConfig.ruby, '-W', '-rratoon', '-e'].freeze

  def test_nothing_is_said_without_a_master
    assert_equal [false, nil, nil], [Ratoon.ready, Ratoon.identity({}), Ratoon.count(:orders)]
    assert_raises(RuntimeError) { Ratoon.server_status }
  end

  def test_messages_are_sent_in_order
    Worker.with([*RUBY, "Ratoon.status(\"warm\\nup\"); Ratoon.info(a: 1); Ratoon.leaving; Ratoon.ready; sleep"]) do |worker|
      worker.hears('READY=1')
      assert_equal ['STATUS=warm up', 'X_RATOON_INFO={"a":1}', 'STOPPING=1', 'READY=1'], worker.said
    end
  end

  def test_watchdog_is_fed
    Worker.with([*RUBY, 'Ratoon.ready; sleep'], env: { 'WATCHDOG_USEC' => '20000' }) do |worker|
      worker.hears('WATCHDOG=1')
      worker.said.clear
      worker.hears('WATCHDOG=1')
    end
  end

  def test_sigterm_begins_the_drain_once
    program = <<~RUBY
      Ratoon.handle_sigterm
      Ratoon.when_draining { Mutex.new.synchronize { puts 'draining' } }
      Ratoon.ready
      Ratoon.count(:ticks)
      sleep 0.01 until Ratoon.draining?
      Ratoon.begin_drain
      Ratoon.when_draining { puts 'told late' }
    RUBY
    Worker.with([*RUBY, program]) do |worker|
      worker.hears('READY=1')
      Worker.until('the counter is shown') { worker.counters == { 'ticks' => 1 } }
      worker.terminate
      assert_predicate worker.exit_status, :success?
      assert_equal ['draining', 'told late'], worker.log.lines(chomp: true).sort
    end
  end

  def test_identity_is_of_the_environment
    env = { 'RATOON_INSTANCE' => 'web', 'RATOON_GENERATION' => '3', 'RATOON_WORKER' => '7', 'RATOON_SLOT' => '1' }
    assert_equal ['web', 3, 7, 1], Ratoon.identity(env).to_a
  end

  def test_server_status_is_read_from_the_control_socket
    Dir.mktmpdir do |directory|
      path = File.join(directory, 'control')
      server = UNIXServer.new(path)
      thread = Thread.new do
        connection = server.accept
        connection.readpartial(4096)
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"state\":\"running\"}")
        connection.close
      end
      ENV['RATOON_CONTROL'] = path
      assert_equal({ 'state' => 'running' }, Ratoon.server_status)
      thread.join
    ensure
      ENV.delete('RATOON_CONTROL')
    end
  end
end
