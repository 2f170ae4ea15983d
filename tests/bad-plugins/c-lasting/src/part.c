/* What the C library keeps, and calls or writes to later: nothing of it is undone when a library is closed. */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path_of_notes[4096];
static char bytes[64];
static struct aiocb request;
static volatile int called;

static void tell(void) {
    int file = open(path_of_notes, O_CREAT | O_WRONLY | O_APPEND, 0600);
    if (file >= 0) {
        if (write(file, "called\n", 7) < 0)
            called = -1;
        close(file);
    }
}

static void on_event(union sigval value) {
    (void)value;
    tell();
}

/* For a function of the plugin's that is to write a line to `<argument>.notes`. */
static struct sigevent event_for(const char *argument) {
    snprintf(path_of_notes, sizeof path_of_notes, "%s.notes", argument);
    return (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_event};
}

static ssize_t write_cookie(void *cookie, const char *from, size_t count) {
    (void)cookie, (void)from;
    called = 1;
    return (ssize_t)count;
}

static void *nothing(void *argument) {
    return argument;
}

/* The argument's last part is the name of a queue, to which a message will come. */
int c_part_mq_notify(const char *argument) {
    const char *name = strrchr(argument, '/');
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = sizeof bytes};
    struct sigevent event = event_for(argument);
    mqd_t queue = mq_open(name, O_CREAT | O_RDONLY, 0600, &attributes);
    if (queue == (mqd_t)-1)
        return errno;
    return mq_notify(queue, &event) == 0 ? 0 : errno;
}

/* The argument is the path of a named pipe, to which somebody will write. */
int c_part_aio_read(const char *path) {
    int pipe = open(path, O_RDWR);
    if (pipe < 0)
        return errno;
    request.aio_fildes = pipe;
    request.aio_buf = bytes;
    request.aio_nbytes = sizeof bytes;
    request.aio_sigevent = event_for(path);
    return aio_read(&request) == 0 ? 0 : errno;
}

/* A stream that is never closed, so that the C library flushes it at the process's end. */
int c_part_fopencookie(const char *argument) {
    cookie_io_functions_t functions = {.write = write_cookie};
    FILE *file = fopencookie(NULL, "w", functions);
    return file && fputs(argument, file) >= 0 ? 0 : EIO;
}

/* A thread on this stack that ends at once and that nobody joins. */
int c_part_own_stack(void *stack, size_t size) {
    pthread_attr_t attributes;
    pthread_t thread;
    int error = pthread_attr_init(&attributes);
    if (!error)
        error = pthread_attr_setstack(&attributes, stack, size);
    return error ? error : pthread_create(&thread, &attributes, nothing, NULL);
}

/* Opens a stream, and waits until there is a file at the path that the variable says. */
__attribute__((constructor)) static void constructor(void) {
    const char *path = getenv("C_LASTING_BEGINNING");
    if (!path)
        return;
    c_part_fopencookie("something");
    while (access(path, F_OK) != 0)
        usleep(2000);
}
