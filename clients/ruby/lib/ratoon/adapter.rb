# frozen_string_literal: true

# Makes an unmodified Puma a worker of Ratoon, whichever program starts it (`puma`, `rails server`, `rackup`):
# `RUBYOPT=-rratoon/adapter` in `worker.environment`. It is the Puma plugin (ratoon/puma.rb) without a line in the configuration.
#
# Nothing is done in a process that loads no Puma. With worker.preload the adapter is for the workers (ratoon/preload.rb).

module Ratoon
  # Prepended to Puma::Configuration.
  module Adapter
    def load(*)
      super.tap do
        configure { |user_config| user_config.plugin(:ratoon) } unless @ratoon_plugin
        @ratoon_plugin = true
      end
    end

    # Where Puma is not loaded yet, the end of its class's definition is waited for.
    def self.install
      return extend_puma if defined?(::Puma::Configuration)

      TracePoint.new(:end) do |trace|
        next unless trace.self.is_a?(Class) && trace.self.name == 'Puma::Configuration'

        trace.disable
        extend_puma
      end.enable
    end

    def self.extend_puma
      require_relative '../puma/plugin/ratoon'
      ::Puma::Configuration.prepend(Adapter)
    end
    private_class_method :extend_puma
  end
end

Ratoon::Adapter.install if ENV['LISTEN_FDS'].to_i.positive?
