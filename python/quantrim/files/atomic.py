from .disk.writer import FileWriter as FileWriter
