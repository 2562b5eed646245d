# frozen_string_literal: true

require_relative 'lib/ratoon/version'

Gem::Specification.new do |spec|
  spec.name = 'ratoon'
  spec.version = Ratoon::VERSION
  spec.summary = 'Worker library of Ratoon for Ruby: readiness, a drain without loss, requests on the status page'
  spec.description = "#{spec.summary}. A plugin for Puma, middleware for Rack and Rails, sd_notify(3) and the status page."
  spec.authors = ['Ratoon contributors']
  spec.license = 'MIT'
  spec.required_ruby_version = '>= 2.7'
  spec.files = Dir['{lib,exe}/**/*', base: __dir__].select { |file| File.file?(File.join(__dir__, file)) } + ['README.md']
  spec.bindir = 'exe'
  spec.executables = ['ratoon-preload']
  spec.metadata = { 'rubygems_mfa_required' => 'true' }
end
