# frozen_string_literal: true

require_relative 'support'

# Tests of Puma, for both ways to run it: with the plugin, and unmodified with the adapter.
module PumaTests
  APP = <<~RUBY
    require 'ratoon'
    run(lambda do |env|
      case env['PATH_INFO']
      when '/slow' then Ratoon.describe(env, user: 'ada'); sleep 0.5
      when '/fail' then raise 'broken'
      when '/missing' then return [404, {}, ['no']]
      when '/stream'
        parts = Enumerator.new { |part| part << 'first'; sleep 0.5; part << 'last' }
        return [200, { 'content-type' => 'text/plain' }, parts]
      end
      [200, { 'content-type' => 'text/plain' }, ['hello']]
    end)
  RUBY

  # Begins the drain, and waits until it has begun.
  def drain(worker)
    worker.terminate
    Worker.until("Puma is told to stop: #{worker.log}") { worker.log.include?('Gracefully stopping') }
    # The thread that accepts sees it right after the line.
    Worker.until('the worker stops accepting') { !queued?(worker) }
  end

  # Whether a new connection is accepted: one that stays in the kernel's queue gets no answer.
  def queued?(worker)
    socket = TCPSocket.new('127.0.0.1', worker.port)
    socket.write("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    !socket.wait_readable(0.2).nil?
  ensure
    socket&.close
  end

  def test_ready_takes_the_handed_socket
    with_puma do |worker|
      response = worker.connect.get('/')
      assert_equal ['hello', nil, '5'], [response.body, response['connection'], response['content-length']]
      assert_equal worker.pid, worker.word(8)
      assert_equal(['READY=1'], worker.listen.reject { |word| word.start_with?('STATUS') })
    end
  end

  def test_drain_answers_a_kept_connection_with_close
    with_puma do |worker|
      http = worker.connect
      refute_equal 'close', http.get('/')['connection']
      drain(worker)
      response = http.get('/')
      assert_equal %w[hello close], [response.body, response['connection']]
      assert_equal Signal.list['TERM'], worker.exit_status.termsig
    end
  end

  def test_drain_ends_while_clients_keep_all_threads_busy
    with_puma do |worker|
      # More clients than threads: the thread that accepts waits for one of them.
      answered = [0] * 6
      clients = answered.each_index.map do |index|
        Thread.new do
          http = worker.connect
          loop do
            break if http.get('/')['connection'] == 'close'

            answered[index] += 1
          end
        rescue SystemCallError, EOFError
          # Never accepted: another worker would have taken it from the kernel's queue.
          raise if answered[index].positive?
        end
      end
      Worker.until('the clients are served') { answered.sum > 500 }
      worker.terminate
      assert_equal Signal.list['TERM'], worker.exit_status.termsig
      clients.each(&:join)
    end
  end

  def test_drain_serves_a_connection_that_has_asked_nothing_yet
    with_puma do |worker|
      socket = TCPSocket.new('127.0.0.1', worker.port)
      # It is accepted when a later one is answered.
      worker.connect.get('/')
      drain(worker)
      socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
      assert_match(/\AHTTP.1.1 200 .*Connection: close.*hello\z/mi, socket.read)
    end
  end

  def test_drain_serves_a_request_in_work
    with_puma do |worker|
      http = worker.connect
      slow = Thread.new { http.get('/slow') }
      Worker.until('the request is described') { worker.slot[:info] == '{"user":"ada"}' }
      worker.terminate
      assert_equal %w[hello close], [slow.value.body, slow.value['connection']]
      assert_equal Signal.list['TERM'], worker.exit_status.termsig
      Worker.until('the answer is counted') { worker.counters == { 'responses_2xx' => 1 } }
    end
  end

  def test_drain_keeps_a_connection_whose_head_was_sent
    with_puma do |worker|
      http = worker.connect
      stream = Thread.new { http.get('/stream') }
      Worker.until('the head is sent') { worker.slot[:request] == 2 }
      drain(worker)
      assert_equal 'firstlast', stream.value.body
      assert_equal 'close', http.get('/')['connection']
    end
  end

  def test_drain_closes_an_idle_connection_after_the_grace
    with_puma(stop_timeout: 1) do |worker|
      socket = TCPSocket.new('127.0.0.1', worker.port)
      worker.connect.get('/')
      worker.terminate
      assert_equal '', socket.read
      assert_equal Signal.list['TERM'], worker.exit_status.termsig
    end
  end

  def test_answers_are_counted_by_class
    with_puma do |worker|
      %w[/ /missing /fail].each { |path| worker.connect.get(path) }
      Worker.until('three answers are counted') { worker.counters.values.sum == 3 }
      assert_equal({ 'responses_2xx' => 1, 'responses_4xx' => 1, 'errors' => 1 }, worker.counters)
      assert_equal [3, 7, 2], [worker.word(17), worker.word(22), worker.word(25)]
    end
  end

  def test_broken_application_never_says_ready
    Worker.with(command, files.merge('config.ru' => "raise 'broken release'"), env: env) do |worker|
      refute_predicate worker.exit_status, :success?
      assert_empty worker.listen
      assert_includes worker.log, 'broken release'
    end
  end

  def with_puma(stop_timeout: 60)
    Worker.with(command, files.merge('config.ru' => APP), stop_timeout: stop_timeout, env: env) do |worker|
      worker.hears('READY=1')
      yield worker
    end
  end

  def env
    {}
  end
end

class PumaPluginTest < Minitest::Test
  include PumaTests

  def command
    %w[puma --config puma.rb]
  end

  def files
    { 'puma.rb' => "threads 1, 4\nplugin :ratoon\n" }
  end

  def test_workers_of_puma_are_refused
    Worker.with(command, { 'puma.rb' => "workers 2\nplugin :ratoon\n", 'config.ru' => APP }) do |worker|
      assert_equal 1, worker.exit_status.exitstatus
      assert_includes worker.log, 'set worker.count'
    end
  end
end

class PumaAdapterTest < Minitest::Test
  include PumaTests

  def command
    # The address is the program's own; the adapter takes the handed socket in its place.
    %w[puma --bind tcp://127.0.0.1:1 --threads 1:4]
  end

  def files
    {}
  end

  def env
    { 'RUBYOPT' => '-rratoon/adapter' }
  end
end

class RailsTest < Minitest::Test
  APP = <<~RUBY
    require 'rails'
    require 'action_controller/railtie'
    require 'ratoon'

    class App < Rails::Application
      config.secret_key_base = 'x' * 32
      config.eager_load = false
      config.logger = Logger.new($stderr)
      config.middleware.insert_before 0, Ratoon::Rack
      routes.append { get '/orders/:id', to: 'orders#show' }
    end

    class OrdersController < ActionController::Base
      before_action { Ratoon.describe(request.env, controller: controller_path, action: action_name) }

      def show
        sleep 0.5
        render plain: "order \#{params[:id]}"
      end
    end

    run App.initialize!
  RUBY

  def test_action_of_each_request_is_shown
    Worker.with(%w[puma --config puma.rb], { 'config.ru' => APP, 'puma.rb' => "plugin :ratoon\n" }) do |worker|
      worker.hears('READY=1')
      http = worker.connect
      order = Thread.new { http.get('/orders/17?full=1') }
      Worker.until('the request is described') { !worker.slot[:info].empty? }
      assert_equal ['GET', '/orders/17?full=1', '{"controller":"orders","action":"show"}'], worker.slot.values_at(:method, :url, :info)
      worker.terminate
      assert_equal ['order 17', 'close'], [order.value.body, order.value['connection']]
      Worker.until('the answer is counted') { worker.counters == { 'responses_2xx' => 1 } }
    end
  end
end

class UnicornTest < Minitest::Test
  def test_ready_comes_after_the_application
    with_unicorn do |worker|
      worker.hears('READY=1')
      http = worker.connect
      slow = Thread.new { http.get('/slow') }
      Worker.until('the request is described') { worker.slot[:info] == '{"user":"ada"}' }
      worker.terminate('QUIT')
      assert_equal 'hello', slow.value.body
      assert_predicate worker.exit_status, :success?
      Worker.until('the answer is counted') { worker.counters == { 'responses_2xx' => 1 } }
    end
  end

  def test_broken_application_never_says_ready
    with_unicorn("raise 'broken release'") do |worker|
      refute_predicate worker.exit_status, :success?
      assert_empty worker.listen
    end
  end

  def with_unicorn(app = "require 'ratoon'\nuse Ratoon::Rack\n#{PumaTests::APP}", &block)
    config = <<~RUBY
      require 'ratoon'
      preload_app true
      after_worker_ready { |_server, _worker| Ratoon.ready }
    RUBY
    Worker.with(%w[unicorn --config-file unicorn.rb], { 'unicorn.rb' => config, 'config.ru' => app }, &block)
  end
end
