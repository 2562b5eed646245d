# frozen_string_literal: true

module Ratoon
  module Preload
    # A program that RubyGems or Bundler has generated for that of a gem, such as /usr/bin/puma. That of RubyGems resolves all gems again,
    # which costs 60 ms of CPU time and 10 MB in each worker that runs it. So the preload process does that once, and requires what a
    # known server requires.
    module Stub
      LOAD = /^load Gem\.(activate_)?bin_path\(['"]([\w.-]+)['"], ['"]([\w.-]+)['"](?:, version)?\)$/
      REQUIRE = /^require ['"]([\w\/.-]+)['"]/
      # The libraries of the known servers: that of its program, and those that it requires when it starts to serve. Another server may
      # keep descriptors, or the command line, of the process that loads it, as unicorn does.
      SERVERS = { 'puma/cli' => %w[puma/launcher puma/server rack/builder rack/server nio] }.freeze
      # The most bytes of a program that is read: a generated one has some hundred.
      MAX = 4096

      @found = {}

      class << self
        # Call it in the preload process. A failure is left to the worker, which tells it.
        def prepare(script)
          names = script && File.binread(script, MAX).to_s.match(LOAD)
          return unless names

          program = Gem.public_send("#{names[1]}bin_path", names[2], names[3], '>= 0.a')
          # Only a stub of RubyGems is known to do nothing else; one of Bundler may.
          @found[script] = program if names[1]
          required_by(program).each { |library| try_to_require(library) }
        rescue StandardError, LoadError
          nil
        end

        # The file to load for this script: the gem's program in place of a generated one. Its first argument may ask for another version.
        def resolve(script, words)
          words.first.to_s.match?(/\A_.*_\z/) ? script : @found.fetch(script, script)
        end

        private

        def required_by(program)
          libraries = File.binread(program, MAX).to_s.scan(REQUIRE).flatten
          libraries.flat_map { |library| SERVERS.key?(library) ? [library, *SERVERS[library]] : [] }
        end

        def try_to_require(library)
          require library
        rescue StandardError, LoadError
          nil
        end
      end
    end
  end
end
