# An application for servers of Rack. It knows nothing of Ratoon but its variable.
answer = ->(_env) { [200, { 'content-type' => 'text/plain' }, ["pid #{Process.pid} generation #{ENV.fetch('RATOON_GENERATION')}"]] }
run answer
