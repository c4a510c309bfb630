"""The HTTP door: requests in, pictures out, from a queue that is an output folder; and pages, while a run is on.

A request is a picture like any other: accepted when it stands on the disk, rendered by the supervisor's dispatcher and
its worker, with a sidecar that says how. Imports no torch.

    configuration   how a server behaves: options, environment, `.env`
    serving         a server from its beginning to its end
    watching        the pages of a run, from its beginning to its end
    http_server     the socket and the thread of both
    guard           who is let in, how much is read, what is logged
    visitors        whose program asks
    answers         what goes wrong, as each kind of client reads it
    app             the routes
    event_stream    server-sent events
    gallery_files   files that a page calls for

    album           the form, and the page of what was rendered
    operations      a route, as it is served and as it is described
    openapi         /openapi.json
    bodies          what requests say
    answer_bodies   what answers say
    json_values     JSON that somebody sent
    images          our own requests: /api/v1/images
    openai_images   OpenAI's images API
    openai_fields   its requests in a job's fields
    automatic1111   its API, as far as desktop clients use it
    openai_batches  batches: OpenAI's, and manifests
    batch_runs      batches on their way
    batch_store     batches and uploads on the disk
    uploads         pictures that clients send along
    health          /health and /metrics
    intake          a request's fields as pictures
    desk            who asked for what, and what became of it
    standing        how one of them stands
    queue_file      what was accepted, on the disk
    queue_writer    its lines on their way there
    request_queue   who waits, and whose turn it is
    shifts          a worker, shift after shift
"""
