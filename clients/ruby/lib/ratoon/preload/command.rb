# frozen_string_literal: true

require_relative 'stub'

module Ratoon
  module Preload
    # Runs a command of Ruby in this process: a program such as `puma` or `bin/puma`, `ruby SCRIPT`, `bundle exec PROGRAM`.
    module Command
      RUBY = /\Aruby[0-9.]*\z/

      class << self
        # Runs `argv`, whose program is at the path `program`. Returns when it does; raises what it raises.
        def run(program, argv)
          script, words = resolve(program, argv)
          script = File.expand_path(script)
          unless ruby?(script)
            abort "ratoon-preload: worker.command #{argv.first.inspect} is no program of Ruby; leave worker.preload out, or name one"
          end
          ARGV.replace(words)
          $PROGRAM_NAME = script
          load(Stub.resolve(script, words))
        end

        # Does in the preload process, before the first fork, what each worker would do by itself.
        def prepare(program, argv)
          name = File.basename(argv.first)
          return if name.match?(RUBY)

          program = argv[1] == 'exec' && find_in_path(argv[2].to_s) if %w[bundle bundler].include?(name)
          Stub.prepare(File.expand_path(program)) if program
        end

        private

        # The path of the script, and its arguments.
        def resolve(program, argv)
          case File.basename(argv.first)
          when RUBY then interpret(argv.drop(1))
          # Bundler has set this process up already, where it is `bundle exec`, too.
          when 'bundle', 'bundler'
            abort "ratoon-preload: worker.command #{argv.join(' ')}: of bundle only `exec PROGRAM` is run" unless argv[1] == 'exec' && argv[2]
            resolve(find(argv[2]), argv.drop(2))
          else [program, argv.drop(1)]
          end
        end

        # The program that the interpreter would run with these arguments.
        def interpret(words)
          search = false
          while words.first&.start_with?('-')
            option = words.shift
            case option
            when '-S' then search = true
            when '-I', '-r' then take(option, words.shift)
            when /\A-[Ir]./ then take(option[0, 2], option[2..])
            else
              abort "ratoon-preload: worker.command has the option #{option} of the interpreter, which a forked worker cannot take; " \
                    'write it into worker.preload'
            end
          end
          abort 'ratoon-preload: worker.command names no script for the interpreter to run' if words.empty?
          [search ? find(words.first) : words.first, words.drop(1)]
        end

        def take(option, value)
          option == '-I' ? $LOAD_PATH.unshift(File.expand_path(value)) : require(value)
        end

        def find(name)
          find_in_path(name) || abort("ratoon-preload: worker.command: #{name} is not found in PATH")
        end

        def find_in_path(name)
          return name if name.include?('/')

          ENV['PATH'].to_s.split(':').map { |directory| File.join(directory, name) }.find { |path| File.executable?(path) }
        end

        def ruby?(script)
          script.end_with?('.rb') || File.open(script, 'rb') { |file| file.read(512).to_s.lines.first(3).any? { |line| line =~ /\A#!.*ruby/ } }
        rescue SystemCallError => e
          abort "ratoon-preload: worker.command: #{script}: #{e.message}"
        end
      end
    end
  end
end
