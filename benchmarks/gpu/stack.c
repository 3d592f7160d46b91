// Preloaded into a process, says where it crashes: the signal, the libraries and functions on the stack, the instruction.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <ucontext.h>

enum { FRAMES = 48, BEFORE = 16, AFTER = 32 };
static char own_stack[1 << 17];

static void say(const char *what, void *address) {
  Dl_info at = {0};
  dladdr(address, &at);
  dprintf(2, "%s %s+0x%lx %s\n", what, at.dli_fname ? at.dli_fname : "?", (long)((char *)address - (char *)at.dli_fbase),
          at.dli_sname ? at.dli_sname : "");
}

static void report(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned char *here = (unsigned char *)registers[REG_RIP];
  dprintf(2, "signal %d, code %d, address %p\n", number, info->si_code, info->si_addr);
  say("at", here);
  Dl_info at = {0};
  if (dladdr(here, &at)) { // else these bytes may not be readable
    for (int i = -BEFORE; i < AFTER; i++) dprintf(2, i ? " %02x" : " [%02x]", here[i]);
    dprintf(2, "\n");
  }
  const char *names[] = {"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp"};
  for (int i = 0; i < 16; i++) dprintf(2, "%s %llx%s", names[i], (long long)registers[i], i == 15 ? "\n" : ", ");
  void *frames[FRAMES];
  int count = backtrace(frames, FRAMES);
  for (int i = 0; i < count; i++) say("  ", frames[i]);
  signal(number, SIG_DFL);
  raise(number);
}

__attribute__((constructor)) static void begin(void) {
  void *frames[2];
  backtrace(frames, 2); // loads what it needs now
  sigaltstack(&(stack_t){.ss_sp = own_stack, .ss_size = sizeof own_stack}, NULL);
  struct sigaction action = {.sa_sigaction = report, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  for (int *number = (int[]){SIGSEGV, SIGBUS, SIGILL, SIGABRT, 0}; *number; number++) sigaction(*number, &action, NULL);
}
