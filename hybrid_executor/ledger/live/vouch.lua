-- Renews the leases of some of one scheduler's attempts, and takes out of sets what is not in flight.
--
-- KEYS are those of schema.Keys.of_script. ARGV[1] is JSON: lease_s, ids (of the scheduler's index), and
-- strangers: {BACKEND:QUEUE, attempt, ...} for members of sets that may not belong there.
-- Returns {how many members were put back or taken out, attempt, ...} with those that have no hash.
local me, index, queues = KEYS[1], KEYS[2], KEYS[4]
local attempts, inflight = KEYS[5], KEYS[6]
local asked = cjson.decode(ARGV[1])
local call = redis.call
local now = tonumber(call('TIME')[1])
local vouched = now + asked.lease_s

local moved, missing, seen = 0, {}, {}
for _, id in ipairs(asked.ids) do
    local key = attempts .. id
    local of = call('HMGET', key, 'backend', 'queue')
    if of[1] then
        local queue = of[1] .. ':' .. of[2]
        call('EXPIRE', key, asked.lease_s)
        moved = moved + call('ZADD', inflight .. queue, vouched, id)
        seen[queue] = true
    else
        call('HDEL', index, id)
        missing[#missing + 1] = id
    end
end
for queue in pairs(seen) do
    call('EXPIRE', inflight .. queue, asked.lease_s)
    call('ZADD', queues, vouched, queue)
end
for _, group in ipairs(asked.strangers) do
    local queue = group[1]
    call('ZREMRANGEBYSCORE', inflight .. queue, '-inf', now)
    for i = 2, #group do
        local of = call('HMGET', attempts .. group[i], 'backend', 'queue', 'ended_at')
        if not of[1] or of[3] or of[1] .. ':' .. of[2] ~= queue then
            moved = moved + call('ZREM', inflight .. queue, group[i])
        end
    end
end
call('ZREMRANGEBYSCORE', queues, '-inf', now)
call('HSET', me, 'checked_at', now)
call('EXPIRE', me, asked.lease_s)
call('EXPIRE', index, asked.lease_s)
call('EXPIRE', queues, asked.lease_s)
return {moved, unpack(missing)}
