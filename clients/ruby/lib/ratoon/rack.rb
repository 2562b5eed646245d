# frozen_string_literal: true

module Ratoon
  # Rack middleware that shows each request on the status page, counts the answers by class, and during the drain lets the server
  # answer `Connection: close`. In config.ru: `use Ratoon::Rack`; in Rails: `config.middleware.insert_before 0, Ratoon::Rack`.
  class Rack
    VERSIONS = { 'HTTP/1.0' => 10, 'HTTP/1.1' => 11, 'HTTP/2' => 20, 'HTTP/2.0' => 20 }.freeze

    @in_work = 0
    @last_change = 0.0
    @lock = Mutex.new

    class << self
      # Requests in work, in this process.
      attr_reader :in_work
      # When a request began or ended last, seconds of the monotonic clock; 0 before the first.
      attr_reader :last_change

      # @private
      def add_in_work(change)
        @lock.synchronize do
          @in_work += change
          @last_change = Process.clock_gettime(Process::CLOCK_MONOTONIC)
        end
      end
    end

    def initialize(app)
      @app = app
    end

    def call(env)
      # The Puma plugin and config.ru may both use it.
      return @app.call(env) if env.key?(KEY)

      request = env[KEY] = begin_request(env)
      Rack.add_in_work(1)
      begin
        status, headers, body = @app.call(env)
      rescue Exception # rubocop:disable Lint/RescueException
        finish(env, request, nil)
        raise
      ensure
        # The server looks at the client's wish when it writes the head.
        env['HTTP_CONNECTION'] = 'close' if Ratoon.draining?
      end
      request&.sending
      headers = with_length(env, status.to_i, headers, body)
      empty = env['REQUEST_METHOD'] == 'HEAD' || [204, 304].include?(status.to_i)
      [status, headers, Body.new(body, empty) { |whole| finish(env, request, whole ? status.to_i : nil) }]
    end

    private

    def begin_request(env)
      query = env['QUERY_STRING'].to_s
      url = "#{env['SCRIPT_NAME']}#{env['PATH_INFO']}#{"?#{query}" unless query.empty?}"
      version = VERSIONS.fetch(env['SERVER_PROTOCOL'] || env['HTTP_VERSION'], 0)
      Scoreboard.current&.request(env['REQUEST_METHOD'].to_s, url, version, env['REMOTE_ADDR'])
    end

    def finish(env, request, status)
      Rack.add_in_work(-1)
      env.key?('rack.hijack_io') ? request&.hijacked : request&.end(status)
    end

    # Servers take the length from an Array, which `Body` is not.
    def with_length(env, status, headers, body)
      return headers if !body.is_a?(Array) || env['REQUEST_METHOD'] == 'HEAD' || status < 200 || [204, 304].include?(status)
      return headers if headers.any? { |name, _| name.match?(/\A(content-length|transfer-encoding)\z/i) }

      headers.merge('content-length' => body.sum(&:bytesize).to_s)
    end

    # An answer's body. The server calls `close` when it is sent, or when its client has gone.
    class Body
      # `empty`: no part of the body is sent.
      def initialize(body, empty, &ended)
        @body = body
        @whole = empty
        @ended = ended
      end

      def each
        @body.each { |part| yield part }
        @whole = true
      end

      # A server that sends the file by itself does not call `each`; one that writes a streaming body calls `call`.
      def method_missing(name, *arguments, &block)
        return super unless respond_to_missing?(name)

        @whole = true if %i[to_path call].include?(name)
        @body.public_send(name, *arguments, &block)
      end

      def respond_to_missing?(name, _all = false)
        # As an Array or a String it would not be closed.
        !%i[to_ary to_str].include?(name) && @body.respond_to?(name)
      end

      def close
        @body.close if @body.respond_to?(:close)
      ensure
        ended = @ended
        @ended = nil
        ended&.call(@whole)
      end
    end
  end
end
