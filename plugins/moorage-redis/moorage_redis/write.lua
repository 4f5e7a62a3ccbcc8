-- Every write of moorage-redis: one call is one atomic step, because Redis runs nothing else meanwhile.
--
-- A document is one JSON text: {"revision":3,"body":{ and then each field of the body on a line of its own. JSON has
-- no raw line break anywhere else, so a field is found and replaced as text. Nothing is ever decoded here: Lua's
-- numbers would spoil large integers, and its JSON library empty lists.
--
-- Beside it stand the document's entries: the values that its indexes, unique keys and tallies are made of, as texts
-- that sort as the values do. They say what to take out of an index when the document changes.
--
-- ARGV[1]: where the collection is kept, see Layout. ARGV[2]: the request. ARGV[3...]: texts of documents.

local spec, request = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local actions = {}

if (redis.call('GET', spec.schema) or '') ~= spec.state then
  return redis.status_reply('schema')
end

local function join(entries, places)
  local parts = {}
  for n, place in ipairs(places) do parts[n] = entries[place] end
  return table.concat(parts)
end

-- The value of a unique key; nil where a part of it is null, which is never in conflict.
local function unique(entries, places)
  for _, place in ipairs(places) do
    if entries[place] == '0' then return nil end
  end
  return join(entries, places)
end

-- Which unique key these entries would break; nil for none.
local function broken(id, entries)
  for n, key in ipairs(spec.unique) do
    local value = unique(entries, key[2])
    local owner = value and redis.call('HGET', key[1], value)
    if owner and owner ~= id then return n end
  end
end

local function tally(key, entries, by)
  local name, last = key[1] .. join(entries, key[2]), entries[key[3]]
  if redis.call('HINCRBY', name, last, by) == 0 then redis.call('HDEL', name, last) end
end

-- Store a document with its entries, or, without them, remove it.
local function put(id, text, entries)
  local stored, packed = redis.call('HGET', spec.entries, id), entries and cmsgpack.pack(entries)
  -- The first write, because that is the one that Redis refuses when its memory is full.
  if text then redis.call('HSET', spec.documents, id, text) else redis.call('HDEL', spec.documents, id) end
  if stored == packed then return end
  local before = stored and cmsgpack.unpack(stored)
  if packed then redis.call('HSET', spec.entries, id, packed) else redis.call('HDEL', spec.entries, id) end
  local tail = '4' .. id .. '\0' .. string.format('%04x', #id)
  for _, index in ipairs(spec.indexes) do
    local old = before and join(before, index[2]) .. tail
    local new = entries and join(entries, index[2]) .. tail
    if old ~= new then
      if old then redis.call('ZREM', index[1], old) end
      if new then redis.call('ZADD', index[1], 0, new) end
    end
  end
  for _, key in ipairs(spec.unique) do
    local old, new = before and unique(before, key[2]), entries and unique(entries, key[2])
    if old ~= new then
      if old then redis.call('HDEL', key[1], old) end
      if new then redis.call('HSET', key[1], new, id) end
    end
  end
  for _, key in ipairs(spec.tallies) do
    if before then tally(key, before, -1) end
    if entries then tally(key, entries, 1) end
  end
end

local function revision_of(text) return string.match(text, '^{"revision":(%d+)') end

-- The JSON text of a field, and the positions just before and after it; nil where the body has no such field.
local function field(text, name)
  local _, start = string.find(text, '\n' .. name .. ':', 1, true)
  if not start then return nil end
  local stop = string.find(text, '\n', start + 1, true)
  if string.sub(text, stop - 1, stop - 1) == ',' then stop = stop - 1 end
  return string.sub(text, start + 1, stop - 1), start, stop
end

local function with_field(text, name, value)
  local _, start, stop = field(text, name)
  if start then return string.sub(text, 1, start) .. value .. string.sub(text, stop) end
  local head = string.sub(text, 1, -4)
  return head .. (string.sub(head, -1) == '{' and '\n' or ',\n') .. name .. ':' .. value .. '\n}}'
end

for _, test in ipairs(request.tests or {}) do
  test.wanted = {}
  for _, value in ipairs(test[3]) do test.wanted[value] = true end
end

-- Whether a document meets every test: {name, whether it is negated, the JSON texts to be found or not}.
local function meets(id, text)
  for _, test in ipairs(request.tests) do
    local name, value = test[1], nil
    if name == 'id' then value = id
    elseif name == 'revision' then value = revision_of(text)
    else value = field(text, name) or 'null' end
    if (test.wanted[value] or false) == test[2] then return false end
  end
  return true
end

-- Apply the changes of the request, {name, JSON text} or {name, false, increment}, and store the result. Returns its
-- text; or nil and the unique key that it would break, or nil alone where a sum is too large for Lua's numbers.
local function change(id, text)
  local revision = revision_of(text)
  local after = string.format('{"revision":%d', revision + 1) .. string.sub(text, #revision + 13)
  for _, one in ipairs(request.changes) do
    local value = one[2]
    if one[3] then
      local stored = string.match(field(after, one[1]) or '', '^-?%d+$') or '0'
      if #stored > 15 then return nil end
      value = string.format('%d', stored + one[3])
    end
    after = with_field(after, one[1], value)
  end
  local entries = cmsgpack.unpack(redis.call('HGET', spec.entries, id))
  for _, one in ipairs(request.entries) do entries[one[1]] = one[2] end
  local key = broken(id, entries)
  if key then return nil, key end
  put(id, after, entries)
  return after
end

-- Documents: {id, entries} each, with its text in ARGV. Returns {position, unique key or 0 for the id, ...} of the refused.
function actions.insert()
  local refused = {}
  for n, one in ipairs(request.documents) do
    local taken = redis.call('HEXISTS', spec.documents, one[1]) == 1
    local key = taken and 0 or broken(one[1], one[2])
    if key then
      refused[#refused + 1], refused[#refused + 2] = n - 1, key
    else
      put(one[1], ARGV[n + 2], one[2])
    end
  end
  return refused
end

-- Returns 1, 0 where the revision is not the expected one, or minus the unique key that would be broken.
function actions.swap()
  local id, entries = request.documents[1][1], request.documents[1][2]
  local stored = redis.call('HGET', spec.documents, id)
  if not stored or revision_of(stored) ~= request.expected then return 0 end
  local key = broken(id, entries)
  if key then return -key end
  put(id, ARGV[3], entries)
  return 1
end

-- Change those of the ids that meet the tests. Returns how many, the unique key that stopped it or 0, and the ids of
-- those with sums that are too large for Lua.
function actions.patch()
  local done, left = 0, {}
  for _, id in ipairs(request.ids) do
    local text = redis.call('HGET', spec.documents, id)
    if text and meets(id, text) then
      local after, key = change(id, text)
      if key then return {done, key} end
      if after then done = done + 1 else left[#left + 1] = id end
    end
  end
  return {done, 0, unpack(left)}
end

-- Change the first in the ranges that meets the tests. Returns {its id, its text}, {} for none, minus the unique key
-- that would be broken, or 0 for a sum that is too large for Lua.
function actions.claim()
  local index = request.index
  local command = request.backwards and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
  for _, range in ipairs(request.ranges) do
    local from, to, page = '[' .. range[1], '(' .. range[2], 1
    if request.backwards then from, to = to, from end
    repeat
      local members = redis.call(command, index, from, to, 'LIMIT', 0, page)
      for _, member in ipairs(members) do
        local id = string.sub(member, -5 - tonumber(string.sub(member, -4), 16), -6)
        local text = redis.call('HGET', spec.documents, id)
        if text and meets(id, text) then
          local after, key = change(id, text)
          if after then return {id, after} end
          return -(key or 0)
        end
        from, page = '(' .. member, 100
      end
    until #members == 0
  end
  return {}
end

-- Remove those of the ids that meet the tests, and have the revisions where such are given. Returns how many.
function actions.delete()
  local done = 0
  for n, id in ipairs(request.ids) do
    local text = redis.call('HGET', spec.documents, id)
    if text and meets(id, text) and (not request.revisions or request.revisions[n] == revision_of(text)) then
      put(id, nil, nil)
      done = done + 1
    end
  end
  return done
end

-- Store the entries of documents that have not changed meanwhile. Returns the unique keys that could not be kept.
function actions.reindex()
  local refused = {}
  for n, one in ipairs(request.documents) do
    if redis.call('HGET', spec.documents, one[1]) == ARGV[n + 2] then
      local key = broken(one[1], one[2])
      if key then refused[#refused + 1] = key else put(one[1], ARGV[n + 2], one[2]) end
    end
  end
  return refused
end

-- Step from one state of the schema to the next.
function actions.advance()
  redis.call('SET', spec.schema, request.to)
  return 1
end

return actions[request.action]()
