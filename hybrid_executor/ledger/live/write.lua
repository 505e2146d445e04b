-- Writes a batch of one scheduler's submissions, all of it or none.
--
-- KEYS are those of schema.Keys.of_script. ARGV[1] is JSON:
--   number   of this batch; the scheduler's hash keeps the last one that was written
--   after    the number that must be there: another one tells of a server that was emptied or set back
--   anew     true where whatever is there is overwritten
--   lease_s, ended_s, stream_s, stream_entries   see schema.py
--   items    {operation, attempt, submission, {field, value, ...}}:
--     new     a new submission; what is there of it, or of a later one, stays
--     set     as the database has it; whatever is there goes
--     change  new values of an open submission
--     end     the same, and it has ended: the first end stays
--     drop    the database does not have it as open and this scheduler's
--
-- Returns {'written'} where the batch was there already (the answer got lost), {'lost'} where ``after``
-- is not, and else {'ok', attempt, ...} with the attempts whose changes found nothing to change.
local me, index, transitions, queues = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local attempts, inflight, indexes = KEYS[5], KEYS[6], KEYS[7]
local batch = cjson.decode(ARGV[1])
local call = redis.call

local written = call('HGET', me, 'written')
if written == batch.number then return {'written'} end
if not batch.anew and written ~= batch.after then return {'lost'} end

local now = tonumber(call('TIME')[1])
local vouched = now + batch.lease_s

-- What a row is looked at for, before and after.
local names = {
    'submission', 'ended_at', 'backend', 'queue', 'scheduler_job', 'outcome', 'started_at', 'submitted_at',
    'dag_id', 'run_id', 'task_id', 'map_index',
}

local function read(key)
    local row = {}
    for i, value in ipairs(call('HMGET', key, unpack(names))) do
        if value then row[names[i]] = value end
    end
    return row
end

local function with(row, fields)
    local after = {}
    for name, value in pairs(row) do after[name] = value end
    for i = 1, #fields, 2 do after[fields[i]] = fields[i + 1] end
    return after
end

local function state_of(row)
    return row.outcome or (row.started_at and 'running') or (row.submitted_at and 'submitted') or 'queued'
end

local function tell(row, id, submission, state)
    local entry = {'attempt', id, 'submission', submission, 'state', state}
    for i = 9, #names do
        if row[names[i]] then
            entry[#entry + 1] = names[i]
            entry[#entry + 1] = row[names[i]]
        end
    end
    call('XADD', transitions, 'MAXLEN', '~', batch.stream_entries, '*', unpack(entry))
end

local function leave(row, id)
    if row.backend then
        call('ZREM', inflight .. row.backend .. ':' .. row.queue, id)
        call('HDEL', indexes .. row.scheduler_job, id)
    end
end

-- Sets that got members, and indexes: their time is set once, at the end.
local touched_queues, touched_indexes = {}, {}

local function enter(row, id)
    local queue = row.backend .. ':' .. row.queue
    call('ZADD', inflight .. queue, vouched, id)
    call('HSET', indexes .. row.scheduler_job, id, row.submission .. ' ' .. state_of(row))
    touched_queues[queue] = true
    touched_indexes[row.scheduler_job] = true
end

local function put(operation, id, submission, fields)
    local key = attempts .. id
    local row = read(key)
    if operation == 'set' or not row.submission or tonumber(row.submission) < tonumber(submission) then
        leave(row, id)
        call('DEL', key)
        row = with({}, fields)
        call('HSET', key, unpack(fields))
        call('EXPIRE', key, batch.lease_s)
        enter(row, id)
    end
    -- A rebuild may have been faster than the news of it.
    if operation == 'new' and row.submission == submission then tell(row, id, submission, state_of(row)) end
end

local function drop(id)
    local row = read(attempts .. id)
    call('HDEL', index, id)
    if row.scheduler_job == batch.job and not row.ended_at then
        tell(row, id, row.submission, 'gone')
        leave(row, id)
        call('DEL', attempts .. id)
    end
end

local unknown = {}

local function change(operation, id, submission, fields)
    local key = attempts .. id
    local row = read(key)
    if row.submission ~= submission then
        local newer = not row.submission or tonumber(row.submission) < tonumber(submission)
        if newer and operation == 'change' then unknown[#unknown + 1] = id end
        tell(row, id, submission, operation)
    elseif not row.ended_at then
        local after = with(row, fields)
        if #fields > 0 then call('HSET', key, unpack(fields)) end
        if operation == 'end' then
            leave(row, id)
            call('EXPIRE', key, batch.ended_s)
        elseif after.scheduler_job ~= row.scheduler_job or state_of(after) ~= state_of(row) then
            if after.scheduler_job ~= row.scheduler_job then leave(row, id) end
            enter(after, id)
        end
        tell(after, id, submission, state_of(after))
    end
end

for _, item in ipairs(batch.items) do
    local operation, id, submission, fields = unpack(item)
    if operation == 'drop' then
        drop(id)
    elseif operation == 'new' or operation == 'set' then
        put(operation, id, submission, fields)
    else
        change(operation, id, submission, fields)
    end
end

for queue in pairs(touched_queues) do
    call('EXPIRE', inflight .. queue, batch.lease_s)
    call('ZADD', queues, vouched, queue)
end
for job in pairs(touched_indexes) do call('EXPIRE', indexes .. job, batch.lease_s) end
call('HSET', me, 'written', batch.number)
if batch.anew then call('HSET', me, 'rebuilt_at', now, 'checked_at', now) end
call('EXPIRE', me, batch.lease_s)
call('EXPIRE', queues, batch.lease_s)
call('EXPIRE', transitions, batch.stream_s)
return {'ok', unpack(unknown)}
