-- Puts an entry of a version, unless an intact one of a higher version is there: whoever comes late changes nothing. What is not intact
-- counts as nothing, or it would be there for ever. Returns 1 if it was put.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then
  local known = redis.call('HMGET', KEYS[1], 'version', 'entry')
  local version = tonumber(known[1])
  if version and known[2] and version > tonumber(ARGV[1]) then
    local schema, digest, body = string.match(known[2], '^(%d+) (%x+) (.*)$')
    if schema and redis.sha1hex(KEYS[1] .. ' ' .. known[1] .. ' ' .. schema .. ' ' .. body) == digest then return 0 end
  end
elseif kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
-- Where this is the first write, a server without room refuses it.
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'entry', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
