"""What the online store asks of Redis, as Lua: each script is one atomic call. ``KEYS[1]`` is the prefix of all keys.

Hashes: ``views`` (view to number), ``names`` (number to the JSON list of feature names, which only grows), ``records``,
and ``rows:NUMBER`` (tenant and entity to a row). A row is a msgpack array of its event time and its values; GET answers
with one msgpack array of such rows per view.
"""

EXTEND = """
local base, view = KEYS[1], ARGV[1]
local id = redis.call('HGET', base .. 'views', view)
if not id then
  id = tostring(redis.call('INCR', base .. 'last'))
  redis.call('HSET', base .. 'views', view, id)
  redis.call('HSET', base .. 'names', id, '[]')
end
local names, known = cjson.decode(redis.call('HGET', base .. 'names', id)), {}
for _, name in ipairs(names) do known[name] = true end
for i = 2, #ARGV do if not known[ARGV[i]] then names[#names + 1] = ARGV[i]; known[ARGV[i]] = true end end
if #names > 0 then redis.call('HSET', base .. 'names', id, cjson.encode(names)) end
return {id, redis.call('HGET', base .. 'names', id)}
"""
PUT = """
local base = KEYS[1]
if redis.call('HGET', base .. 'views', ARGV[1]) ~= ARGV[2] then return 0 end
local rows, fields = base .. 'rows:' .. ARGV[2], cmsgpack.unpack(ARGV[3])
for i, field in ipairs(fields) do
  local old, new, newer = redis.call('HGET', rows, field), ARGV[i + 3], true
  if old then
    -- Halves: a whole time does not fit into the 53 bits that Lua's numbers have.
    local h0, l0 = struct.unpack('>i4I4', old, 3)
    local h1, l1 = struct.unpack('>i4I4', new, 3)
    newer = h1 > h0 or (h1 == h0 and l1 >= l0)
  end
  if newer then redis.call('HSET', rows, field, new) end
end
return 1
"""
GET = """
local base, fields = KEYS[1], cmsgpack.unpack(ARGV[1])
local out = {'\\220', struct.pack('>I2', #ARGV - 1)}
for v = 2, #ARGV do
  local id = redis.call('HGET', base .. 'views', ARGV[v])
  if id then
    local cells = redis.call('HMGET', base .. 'rows:' .. id, unpack(fields))
    for i = 1, #cells do cells[i] = cells[i] or '\\192' end
    local size = redis.call('HSTRLEN', base .. 'names', id)
    out[#out + 1] = '\\147' .. cmsgpack.pack(id) .. cmsgpack.pack(size) .. '\\221' .. struct.pack('>I4', #cells)
    out[#out + 1] = table.concat(cells)
  else
    out[#out + 1] = '\\192'
  end
end
return table.concat(out)
"""
_DROP_UNUSED = """
local function drop_unused(base, id)
  local used = not id
  for _, other in ipairs(redis.call('HVALS', base .. 'views')) do used = used or other == id end
  if not used then
    redis.call('UNLINK', base .. 'rows:' .. id)
    redis.call('HDEL', base .. 'names', id)
  end
end
"""
RETIRE = f"""
{_DROP_UNUSED}
local base, n = KEYS[1], tonumber(ARGV[1])
for i = 2, n + 1 do
  local id = redis.call('HGET', base .. 'views', ARGV[i])
  redis.call('HDEL', base .. 'views', ARGV[i])
  drop_unused(base, id)
end
for i = n + 2, #ARGV do redis.call('HDEL', base .. 'records', ARGV[i]) end
"""
PUBLISH = f"""
{_DROP_UNUSED}
local base, n = KEYS[1], tonumber(ARGV[1])
for i = 2, n, 2 do
  local old = redis.call('HGET', base .. 'views', ARGV[i])
  redis.call('HSET', base .. 'views', ARGV[i], redis.call('HGET', base .. 'views', ARGV[i + 1]))
  drop_unused(base, old)
end
for i = n + 2, #ARGV, 2 do redis.call('HSET', base .. 'records', ARGV[i], ARGV[i + 1]) end
"""
